"""The reward: SOFA and lactate within the stay, survival at its end."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.errors import ConfigError
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.patients import Patients
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.sofa import STATE_INPUTS_AT, state_sofa


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
    if config.scheme == "terminal":
        within = np.zeros(np.shape(terminated))
    else:
        change = np.subtract(sofa_tp1, sofa_t, dtype=np.float64)
        lactate_change = np.tanh(np.subtract(lactate_tp1, lactate_t, dtype=np.float64))
        lactate_change[np.isnan(lactate_change)] = 0.0
        within = config.sofa_unchanged * ((change == 0) & (sofa_tp1 > 0))
        within += config.sofa_change * change
        within += config.lactate_change * lactate_change
    if terminated.any():
        np.copyto(within, np.where(died, config.died, config.survived), where=terminated)
    return within


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
    known_t, known_tp1 = before.known(preprocessing), after.known(preprocessing)
    sofa_t, sofa_tp1 = before.sofa(preprocessing), after.sofa(preprocessing)
    at = STATE_INPUTS_AT
    other = np.flatnonzero((known_t.take(at, 1) != known_tp1.take(at, 1)).any(1))
    if len(other):
        both = known_t[other] & known_tp1[other]
        sofa_t, sofa_tp1 = sofa_t.copy(), sofa_tp1.copy()
        for sofa, patients in ((sofa_t, before), (sofa_tp1, after)):
            dose = patients.previous_norepinephrine_equivalent[other]
            sofa[other] = state_sofa(patients.values[other], both, patients.ventilated[other], dose)
    lactate_t, lactate_tp1 = before.values[:, _LACTATE], after.values[:, _LACTATE]
    shown = known_t[:, _LACTATE] & known_tp1[:, _LACTATE]
    lactate_t = np.where(shown, lactate_t, np.nan)
    return step_reward(sofa_t, sofa_tp1, lactate_t, lactate_tp1, terminated, died, config)


_LACTATE = FEATURE_INDEX["lactate"]
