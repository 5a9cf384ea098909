"""The reward: SOFA and lactate within the stay, survival at its end."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.errors import ConfigError
from sepsis_gym.features import FEATURE_INDEX


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


def known_lactate(values: NDArray[np.floating], known: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Lactate in mmol/L of states [..., 39], NaN where not measured within its hold time."""
    at = FEATURE_INDEX["lactate"]
    return np.where(known[..., at], values[..., at], np.nan)
