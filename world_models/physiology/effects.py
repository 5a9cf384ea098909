"""True effects of treatment on the patients of a synthetic cohort, at every logged decision."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.errors import ConfigError
from sepsis_gym.features import N_FEATURES
from sepsis_gym.trajectories import Trajectories
from world_models.effects import Doses, Effects, draw_doses, usual_size
from world_models.physiology.batch import Column
from world_models.physiology.beds import Beds, foresee
from world_models.physiology.binning import bin_readings
from world_models.physiology.body import late_risk
from world_models.physiology.clinician import ClinicianConfig
from world_models.physiology.courses import Policy, Ward, admit, clinicians, run
from world_models.physiology.records.blocks import BLOCK_SIZE, RECORDED_HOURS, block_streams
from world_models.physiology.records.stays import stay_ids


class Moment(NamedTuple):
    """The true state of some patients at one decision of theirs.

    Attributes:
        decision: [n] which of the cohort's decisions.
        beds: The n patients.
        hour: Present time, h from ICU admission.
    """

    decision: NDArray[np.int64]
    beds: Beds
    hour: int


def truth_is_known(log: Trajectories) -> bool:
    """Whether the stays' manifest says how to simulate their patients again."""
    return "synthetic" in log.manifest.config and log.preprocessing.alignment == "causal"


def true_moments(cohort: Trajectories) -> Iterator[Moment]:
    """Simulates the patients of a cohort again and yields their true state at every decision.

    Args:
        cohort: Stays of ``sepsis-gym cohort synthetic``, or some of them, causally aligned.

    Raises:
        ConfigError: The cohort is no synthetic one, or a stay is none of its patients'.
    """
    if not truth_is_known(cohort):
        raise ConfigError(
            f"the truth is known of synthetic cohorts of causal alignment only, not of "
            f"{cohort.manifest.source}"
        )
    made = cohort.manifest.config["synthetic"]
    clinician, n_patients = ClinicianConfig(**made["clinician"]), made["patients"]
    if not np.isin(cohort.stays.stay_id, stay_ids(0, n_patients)).all():
        raise ConfigError(
            f"{cohort.manifest.source}: a stay is none of the {n_patients} patients that its "
            "manifest says were simulated"
        )
    step_hours = cohort.preprocessing.step_hours
    position = np.cumsum(cohort.is_decision) - 1
    for block, first in enumerate(range(0, n_patients, BLOCK_SIZE)):
        n = min(BLOCK_SIZE, n_patients - first)
        bed = np.searchsorted(stay_ids(first, n), cohort.stays.stay_id)
        here = np.flatnonzero(np.isin(cohort.stays.stay_id, stay_ids(first, n)))
        if not len(here):
            continue
        streams = block_streams(made["seed"], block)
        ward = admit(n, streams, clinician)
        noted: list[NDArray[np.float32]] = []
        run(ward, _noting(clinicians(clinician), step_hours, noted), RECORDED_HOURS, streams,
            record=False)  # fmt: skip
        for step in range(int(cohort.n_decisions[here].max())):
            alive = here[cohort.n_decisions[here] > step]
            decision = position[cohort.offsets[:-1][alive] + step]
            beds = Beds.unpack(noted[step + 1][bed[alive]])
            yield Moment(decision, beds, (step + 1) * step_hours)


def _noting(policy: Policy, step_hours: int, noted: list[NDArray[np.float32]]) -> Policy:
    def with_notes(
        ward: Ward, hour: int, rng: np.random.Generator
    ) -> tuple[Column, Column, Column]:
        if hour % step_hours == 0:
            noted.append(Beds(ward.people, ward.body, ward.instruments).pack())
        return policy(ward, hour, rng)

    return with_notes


def true_effects(cohort: Trajectories, seed: int = 0) -> Effects:
    """Asks the truth about a random pair of treatments at every decision of a synthetic cohort."""
    n = int(cohort.is_decision.sum())
    step_hours = cohort.preprocessing.step_hours
    first, second = draw_doses(n, step_hours, np.random.default_rng([seed, 3]))
    change = np.zeros((n, N_FEATURES), np.float32)
    died, risk = np.zeros((n, 2), np.float32), np.zeros(n, np.float32)
    for moment in true_moments(cohort):
        at = moment.decision
        outcomes = [
            expected(moment, Doses(*(column[at] for column in doses)), step_hours)
            for doses in (first, second)
        ]
        before, after = (cohort.preprocessing.standardize(values) for values, *_ in outcomes)
        change[at] = after - before
        died[at] = np.stack([outcome[1] for outcome in outcomes], axis=1)
        risk[at] = outcomes[1][2] - outcomes[0][2]
    return Effects(first, second, change, died, risk, usual_size(first, second, change))


def expected(
    moment: Moment, doses: Doses, step_hours: int, steps: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Some steps as they go without luck under the same doses in each.

    Returns:
        [n, 39] mean readings, clinical units, NaN where none can be had, [n] the probability of
        death, and [n] that of death within 90 days: in these steps, or by what they leave behind.
    """
    hours = step_hours * steps
    beds = moment.beds.take(np.arange(len(moment.beds)))  # a copy: it moves on
    since = np.full(len(beds), moment.hour, np.float32)
    drip = (doses.fluid_ml / (1000 * step_hours)).astype(np.float32)
    seen = foresee(beds, since, hours, drip, doses.norepinephrine_equivalent)
    values = bin_readings(seen.readings, ~np.isnan(seen.readings), hours)[0]
    risk = seen.died + (1 - seen.died) * late_risk(beds.body, beds.people)
    return values, seen.died, np.asarray(risk, np.float32)
