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
    outcome = np.where(died, np.float64(config.died), np.float64(config.survived))
    if terminated.all():
        return outcome
    if config.scheme == "terminal":
        within = np.zeros(np.shape(terminated))
    else:
        risen = np.tanh(np.subtract(lactate_tp1, lactate_t, dtype=np.float64))
        change = np.subtract(sofa_tp1, sofa_t, dtype=np.float64)
        within = _shaped(change, sofa_tp1, np.where(np.isnan(risen), 0.0, risen), config)
    if terminated.any():
        np.copyto(within, outcome, where=terminated)
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
    scored: NDArray[np.int8] | None = None,
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
        scored: [n, 2] SOFA so scored, if the model has worked it out.
    """
    known_t, known_tp1 = before.known(preprocessing), after.known(preprocessing)
    if scored is None:
        sofa_t, sofa_tp1 = _scores(before, after, preprocessing)
    else:
        sofa_t, sofa_tp1 = scored.T
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


def _scores(
    before: Patients, after: Patients, preprocessing: Preprocessing
) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """[n] SOFA before and after, each from what is known in both states."""
    known_t, known_tp1 = before.known(preprocessing), after.known(preprocessing)
    inputs = STATE_INPUTS_AT
    if len(after) == 1:
        both = known_t & known_tp1
        seen = both[0, inputs].tobytes()
        known_t_alone, known_tp1_alone = (
            k[0, inputs].tobytes() != seen for k in (known_t, known_tp1)
        )
        return (
            before.score(both) if known_t_alone else before.sofa(preprocessing),
            after.score(both) if known_tp1_alone else after.sofa(preprocessing),
        )
    differs = (known_t.take(inputs, 1) != known_tp1.take(inputs, 1)).any(1)
    rows = np.flatnonzero(differs)
    both = known_t[rows] & known_tp1[rows]
    # all that is to be scored in one go
    scored_rows = ((after, slice(None)), (before, rows), (after, rows))
    parts = [
        (p.values[at], p.ventilated[at], p.previous_norepinephrine_equivalent[at])
        for p, at in scored_rows
    ]
    values, ventilated, dose = (np.concatenate(part) for part in zip(*parts, strict=True))
    known = np.concatenate([known_tp1, both, both])
    scored = state_sofa(values, known, ventilated, dose)
    n, k = len(after), len(rows)
    after.note(preprocessing, sofa=scored[:n])
    sofa_t, sofa_tp1 = before.sofa(preprocessing).copy(), scored[:n].copy()
    sofa_t[rows], sofa_tp1[rows] = scored[n : n + k], scored[n + k :]
    return sofa_t, sofa_tp1


_LACTATE = FEATURE_INDEX["lactate"]
