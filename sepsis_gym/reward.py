"""The reward: SOFA and lactate within the stay, survival at its end."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.errors import ConfigError
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.patients import Patients
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.sofa import state_sofa


@dataclass(frozen=True)
class RewardConfig:
    """What a step and an outcome are worth; the defaults are the published reward.

    Attributes:
        scheme: ``shaped`` pays at every step and at the end; ``terminal`` pays the outcome only;
            ``survival`` pays 1 for survival, 0 for death and nothing else.
        sofa_unchanged: Paid when SOFA stays the same and is above 0.
        sofa_change: Times the change in SOFA.
        lactate_change: Times tanh of the change in lactate, mmol/L.
        survived: Paid instead of the above at the last step if the patient is alive at 90 days.
        died: Paid at the last step otherwise.

    Source: Raghu et al. 2017, sec. 3.3 (C0 = -0.025, C1 = -0.125, C2 = -2, terminal +-15).
    """

    scheme: Literal["shaped", "terminal", "survival"] = "shaped"
    sofa_unchanged: float = -0.025
    sofa_change: float = -0.125
    lactate_change: float = -2.0
    survived: float = 15.0
    died: float = -15.0

    def __post_init__(self) -> None:
        """Rejects an unknown scheme."""
        if self.scheme not in ("shaped", "terminal", "survival"):
            raise ConfigError(
                f"reward scheme must be shaped, terminal or survival, got {self.scheme!r}"
            )


def step_reward(
    sofa_t: NDArray[np.integer],
    sofa_tp1: NDArray[np.integer],
    lactate_t: NDArray[np.floating],
    lactate_tp1: NDArray[np.floating],
    terminated: NDArray[np.bool_],
    died: NDArray[np.bool_],
    config: RewardConfig,
) -> NDArray[np.float64]:
    """Reward of each transition t to t+1.

    Args:
        sofa_t: [...] SOFA before the action.
        sofa_tp1: [...] SOFA after it.
        lactate_t: [...] lactate before, mmol/L; NaN where not known, which pays nothing.
        lactate_tp1: [...] lactate after.
        terminated: [...] whether this is the stay's last decision.
        died: [...] whether the patient is dead 90 days later; read only where terminated.
        config: The amounts.
    """
    if config.scheme == "survival":
        return np.where(terminated & ~died, 1.0, 0.0)
    outcome = np.where(died, config.died, config.survived)
    if config.scheme == "terminal":
        return np.where(terminated, outcome, 0.0)
    change = np.asarray(sofa_tp1, np.float64) - np.asarray(sofa_t, np.float64)
    lactate_change = np.nan_to_num(np.asarray(lactate_tp1, np.float64) - lactate_t)
    within = (
        np.where((change == 0) & (np.asarray(sofa_tp1) > 0), config.sofa_unchanged, 0.0)
        + config.sofa_change * change
        + config.lactate_change * np.tanh(lactate_change)
    )
    return np.where(terminated, outcome, within)


def transition_reward(
    before: Patients,
    after: Patients,
    preprocessing: Preprocessing,
    terminated: NDArray[np.bool_],
    died: NDArray[np.bool_],
    config: RewardConfig,
) -> NDArray[np.float64]:
    """Reward of n patients' transitions, logged or simulated.

    Both states are scored on what is known in both: a first measurement is no worsening, and one
    that grows too old to be shown is no recovery.

    Args:
        before: n states.
        after: The n states that followed.
        preprocessing: How long measurements hold.
        terminated: [n] whether the episode ends with the transition.
        died: [n] whether the patient is dead 90 days later; read only where terminated.
        config: The amounts.
    """
    known = preprocessing.known(before.age) & preprocessing.known(after.age)
    sofa_t, sofa_tp1 = (
        state_sofa(p.values, known, p.ventilated, p.previous_norepinephrine_equivalent)
        for p in (before, after)
    )
    at = FEATURE_INDEX["lactate"]
    lactate_t, lactate_tp1 = (
        np.where(known[:, at], p.values[:, at], np.nan) for p in (before, after)
    )
    return step_reward(sofa_t, sofa_tp1, lactate_t, lactate_tp1, terminated, died, config)
