"""The true probabilities of clinicians' actions, for off-policy evaluation without estimation."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sepsis_gym.actions import N_ACTIONS, ActionBins
from sepsis_gym.trajectories import Trajectories
from world_models.physiology.batch import Column
from world_models.physiology.clinician import ACTION_HOURS, ClinicianConfig, action_probabilities
from world_models.physiology.courses import Policy, Ward, admit, clinicians, run
from world_models.physiology.records.blocks import BLOCK_SIZE, RECORDED_HOURS, block_streams
from world_models.physiology.records.stays import stay_ids


def write_propensities(
    file: Path, cohort: Trajectories, n_patients: int, seed: int, clinician: ClinicianConfig
) -> None:
    """Simulates the courses again and writes one row per decision of the cohort.

    Columns: stay_id, step, and p_0 to p_24, the probability of each action given all that the
    clinician knew, also what is recorded nowhere.

    Args:
        file: Where to.
        cohort: Made of these patients, 4-h steps, causal alignment; its dose levels count.
        n_patients: As the cohort was made with.
        seed: The same.
        clinician: The same, deciding once per step.
    """
    bins = cohort.preprocessing.action_bins
    known = dict(_by_stay(n_patients, seed, clinician, bins))
    decision = cohort.is_decision
    stay = cohort.stays.stay_id[cohort.stay_of_row[decision]]
    step = cohort.step[decision]
    # the action of step t is decided as bin t + 1 begins
    chosen = np.stack([known[s][t + 1] for s, t in zip(stay.tolist(), step.tolist(), strict=True)])
    columns = {"stay_id": stay, "step": step}
    columns |= {f"p_{action}": chosen[:, action] for action in range(N_ACTIONS)}
    partial = file.with_suffix(".partial")
    pq.write_table(pa.table(columns), partial, compression="zstd")
    os.replace(partial, file)


def _by_stay(
    n_patients: int, seed: int, clinician: ClinicianConfig, bins: ActionBins
) -> list[tuple[int, NDArray[np.float64]]]:
    """(stay_id, [bins, 25]) of every patient."""
    rows: list[tuple[int, NDArray[np.float64]]] = []
    for block, first in enumerate(range(0, n_patients, BLOCK_SIZE)):
        streams = block_streams(seed, block)
        n = min(BLOCK_SIZE, n_patients - first)
        ward = admit(n, streams, clinician)
        noted: list[NDArray[np.float64]] = []
        policy = _noting(clinicians(clinician), clinician, bins, noted)
        run(ward, policy, RECORDED_HOURS, streams, record=False)
        rows += zip(stay_ids(first, n).tolist(), np.stack(noted, axis=1), strict=True)
    return rows


def _noting(
    policy: Policy,
    clinician: ClinicianConfig,
    bins: ActionBins,
    noted: list[NDArray[np.float64]],
) -> Policy:
    exploration = 1.0 if clinician.rct else clinician.exploration

    def with_notes(
        ward: Ward, hour: int, rng: np.random.Generator
    ) -> tuple[Column, Column, Column]:
        if hour % ACTION_HOURS == 0:
            chart = ward.chart(clinician.cue_strength)
            probability = action_probabilities(
                chart, ward.style, ward.people, ward.body, hour, bins, exploration
            )
            probability[ward.body.comfort > 0] = np.eye(N_ACTIONS)[0]  # nothing is given any more
            noted.append(probability)
        return policy(ward, hour, rng)

    return with_notes
