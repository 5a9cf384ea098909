"""Do the stays that a world model simulates end as true ones do?

Errors of a step say little about it: what is wrong in every step adds up, most of all under
treatments that hardly any log holds. Here simple treatments are held all through a stay, in the
model and in the truth, which only synthetic patients have, and the survivors are counted.
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from sepsis_gym.actions import N_ACTIONS, N_LEVELS, encode_action
from sepsis_gym.dynamics import Choose, TransitionModel
from sepsis_gym.envs.episode import advance, begin
from sepsis_gym.patients import Patients
from sepsis_gym.registration import ward_of
from sepsis_gym.reward import RewardConfig
from sepsis_gym.trajectories import Trajectories

PATIENTS, SEED = 4096, 2**31
_MOST, _MIDDLE = N_LEVELS - 1, N_LEVELS // 2
HELD: dict[str, int | None] = {
    "no treatment": int(encode_action(0, 0)),
    "the most fluid": int(encode_action(_MOST, 0)),
    "the most vasopressor": int(encode_action(0, _MOST)),
    "middle levels of both": int(encode_action(_MIDDLE, _MIDDLE)),
    "at random": None,
}
"""What is given at every decision; None for another action each time."""


@dataclass(frozen=True)
class Survival:
    """Shares alive at 90 days under one treatment, with their standard errors.

    Attributes:
        treatment: Of :data:`HELD`.
        true: Of new patients of the cohort's population whose stays a log would hold.
        true_error: Its standard error.
        simulated: In the world model, from first states of the stays.
        simulated_error: Its standard error.
    """

    treatment: str
    true: float
    true_error: float
    simulated: float
    simulated_error: float

    @property
    def gap(self) -> float:
        """Simulated less true."""
        return self.simulated - self.true

    @property
    def gap_error(self) -> float:
        """Its standard error."""
        return float(np.hypot(self.true_error, self.simulated_error))


def evaluate_survival(
    model: TransitionModel, log: Trajectories, patients: int = PATIENTS
) -> list[Survival]:
    """Holds every treatment in the world model and in the truth.

    Args:
        model: The world model.
        log: Held-out stays of a synthetic cohort in the model's scales.
        patients: How many are treated for each number.

    Raises:
        ConfigError: The truth about these stays is not known.
    """
    ward, found = ward_of(log), []
    for treatment, action in tqdm(HELD.items(), "survival", disable=None):
        treated = ward(patients, SEED, _holding(action))
        true = 1 - treated.mortality_90d[treated.mask.any(1)]  # a log holds no others
        simulated = 1 - _mortality(model, log, patients, _holding(action))
        means = (x for each in (true, simulated) for x in (each.mean(), _error(each)))
        found.append(Survival(treatment, *(float(x) for x in means)))
    return found


def survival_json(scores: list[Survival]) -> dict[str, dict[str, float]]:
    """The shares as plain JSON, by treatment."""
    return {
        score.treatment: {
            "true": score.true,
            "simulated": score.simulated,
            "gap": score.gap,
            "gap_standard_error": score.gap_error,
        }
        for score in scores
    }


def survival_table(scores: list[Survival]) -> str:
    """The shares as a text table."""
    table = Table(title="Survival at 90 days, treatment held all through")
    table.add_column("treatment")
    for name in ("true", "simulated", "gap, points"):
        table.add_column(name, justify="right")
    for score in scores:
        gap = f"{100 * score.gap:+.1f} ± {100 * score.gap_error:.1f}"
        table.add_row(score.treatment, f"{score.true:.1%}", f"{score.simulated:.1%}", gap)
    out = io.StringIO()
    Console(file=out, width=100).print(table)
    return f"{out.getvalue()}Of stays that a log would hold: a step or more. ± standard error.\n"


def _holding(action: int | None) -> Choose:
    rng = np.random.default_rng(SEED)

    def choose(patients: Patients) -> NDArray[np.int64]:
        n = len(patients)
        return rng.integers(N_ACTIONS, size=n) if action is None else np.full(n, action)

    return choose


def _mortality(
    model: TransitionModel, log: Trajectories, patients: int, choose: Choose
) -> NDArray[np.float64]:
    """[n] death by day 90, or its probability, from first states of the log drawn at random."""
    rng, reward = np.random.default_rng(SEED), RewardConfig()
    first = log.patients(rng.choice(log.offsets[:-1], patients))
    state, mortality = begin(first, model.preprocessing), np.full(patients, np.nan)
    while np.isnan(mortality).any():
        state, _ = advance(model, state, choose(state.patients), reward, rng)
        over = np.isnan(mortality) & state.terminated
        mortality[over] = state.mortality_90d[over]
    return mortality


def _error(each: NDArray[np.float64]) -> float:
    return float(each.std() / len(each) ** 0.5)
