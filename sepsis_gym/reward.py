"""The reward: SOFA and lactate within the stay, survival at its end."""

from dataclasses import dataclass
from math import tanh
from typing import Any, Literal

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
        risen = np.tanh(np.subtract(lactate_tp1, lactate_t, dtype=np.float64))
        change = np.subtract(sofa_tp1, sofa_t, dtype=np.float64)
        within = _shaped(change, sofa_tp1, np.where(np.isnan(risen), 0.0, risen), config)
    if terminated.any():
        np.copyto(within, np.where(died, config.died, config.survived), where=terminated)
    return within


def _shaped(change: Any, sofa_tp1: Any, risen: Any, config: RewardConfig) -> Any:
    """Reward within the stay, of arrays or plain numbers.

    Args:
        change: Change in SOFA.
        sofa_tp1: SOFA after the step.
        risen: Tanh of the change in lactate.
        config: The amounts.
    """
    unchanged = (change == 0) & (sofa_tp1 > 0)
    return (
        config.sofa_change * change
        + config.sofa_unchanged * unchanged
        + config.lactate_change * risen
    )


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
    seen_t, seen_tp1 = known_t.take(STATE_INPUTS_AT, 1), known_tp1.take(STATE_INPUTS_AT, 1)
    if seen_t.tobytes() != seen_tp1.tobytes():
        other = np.flatnonzero((seen_t != seen_tp1).any(1))
        scored = _rescored(before, after, other, known_t[other] & known_tp1[other])
        sofa_t, sofa_tp1 = sofa_t.copy(), sofa_tp1.copy()
        sofa_t[other], sofa_tp1[other] = scored
    if len(after) == 1 and config.scheme == "shaped" and not terminated.item():
        # one patient: plain numbers are several times faster
        risen = 0.0
        if known_t.item(_LACTATE) and known_tp1.item(_LACTATE):
            risen = tanh(after.values.item(_LACTATE) - before.values.item(_LACTATE))
        points = sofa_tp1.item()
        return np.array([_shaped(points - sofa_t.item(), points, risen, config)])
    shown = known_t[:, _LACTATE] & known_tp1[:, _LACTATE]
    lactate_t = np.where(shown, before.values[:, _LACTATE], np.nan)
    lactate_tp1 = after.values[:, _LACTATE]
    return step_reward(sofa_t, sofa_tp1, lactate_t, lactate_tp1, terminated, died, config)


def _rescored(
    before: Patients, after: Patients, rows: NDArray[np.integer], known: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """[2, k] SOFA of these k patients before and after, from ``known`` [k, 39] alone."""
    if len(after) == 1:
        return np.array([p.score(known) for p in (before, after)])
    both = [
        (p.values[rows], p.ventilated[rows], p.previous_norepinephrine_equivalent[rows])
        for p in (before, after)
    ]
    values, ventilated, dose = (np.stack(pair) for pair in zip(*both, strict=True))
    return state_sofa(values, np.stack([known, known]), ventilated, dose)


_LACTATE = FEATURE_INDEX["lactate"]
