"""What every environment does with its n patients: advance, pay, end, describe."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.dynamics import End, TransitionModel
from sepsis_gym.patients import Patients, merged
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.reward import RewardConfig, transition_reward

UNKNOWN = -1
"""Outcome or risk not known yet; no NaN, so that equal infos compare equal."""
_ONGOING, _DIED, _HORIZON = (np.int8(end) for end in (End.ONGOING, End.DIED, End.HORIZON))
_GOES_ON = np.zeros(1, np.bool_)
_PER_EPISODE = ("sofa", "end", "died_90d", "mortality_90d", "epistemic")


@dataclass(frozen=True)
class EpisodeState:
    """Where n episodes stand.

    Attributes:
        patients: The n patients.
        sofa: [n] their SOFA.
        end: [n] :class:`~sepsis_gym.dynamics.End` codes.
        died_90d: [n] 0 or 1 once the episode is over, else -1.
        mortality_90d: [n] predicted 90-day mortality; -1 where nothing predicted it.
        epistemic: [n] the model's disagreement about the last step.
    """

    patients: Patients
    sofa: NDArray[np.int8]
    end: NDArray[np.int8]
    died_90d: NDArray[np.int8]
    mortality_90d: NDArray[np.float32]
    epistemic: NDArray[np.float32]

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """[n] whether the episode is over."""
        return self.end != _ONGOING

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> "EpisodeState":
        """The episodes at ``index``."""
        taken = (getattr(self, name)[index] for name in _PER_EPISODE)
        return EpisodeState(self.patients.take(index), *taken)

    def put(
        self,
        index: NDArray[np.integer] | NDArray[np.bool_],
        other: "EpisodeState",
        order: NDArray[np.integer] | None = None,
    ) -> "EpisodeState":
        """A copy, in this ``order``, in which the episodes at ``index`` are ``other``'s."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in _PER_EPISODE)
        put = (merged(mine, index, theirs, order) for mine, theirs in pairs)
        return EpisodeState(self.patients.put(index, other.patients, order), *put)


def begin(patients: Patients, preprocessing: Preprocessing) -> EpisodeState:
    """Episodes at their first state."""
    n = len(patients)
    return EpisodeState(
        patients=patients,
        sofa=patients.sofa(preprocessing),
        end=np.full(n, End.ONGOING, np.int8),
        died_90d=np.full(n, UNKNOWN, np.int8),
        mortality_90d=np.full(n, UNKNOWN, np.float32),
        epistemic=np.zeros(n, np.float32),
    )


def advance(
    model: TransitionModel,
    state: EpisodeState,
    action: NDArray[np.integer],
    reward: RewardConfig,
    rng: np.random.Generator,
) -> tuple[EpisodeState, NDArray[np.float64]]:
    """Moves n ongoing episodes one step and pays for it.

    The 90-day outcome is drawn where an episode ends with the patient alive, from the model's
    probability. All draws are made in one fixed order, whatever n.

    Args:
        model: The dynamics.
        state: Where the episodes stand.
        action: [n] valid action ids.
        reward: The amounts.
        rng: The only source of randomness.

    Returns:
        The next state and the [n] rewards.
    """
    preprocessing = model.preprocessing
    doses = preprocessing.action_bins.doses_of(action)
    transition = model.step(state.patients, *doses, rng)
    patients = transition.patients
    given = (patients.previous_fluid_ml, patients.previous_norepinephrine_equivalent)
    if given[0] is doses[0] and given[1] is doses[1]:
        patients.note(preprocessing, action=action)
    end, mortality = transition.end, transition.mortality_90d
    drawn = rng.random(len(patients))
    if len(patients) == 1 and not end.item() and patients.step.item() < preprocessing.max_steps:
        over = _GOES_ON  # plain numbers are several times faster
    else:
        over = (end != _ONGOING) | (patients.step >= preprocessing.max_steps)
    if over is not _GOES_ON and np.count_nonzero(over):
        end = np.where(over & (end == _ONGOING), _HORIZON, end)
        died_here = end == _DIED
        died = died_here | (over & (drawn < mortality))
        died_90d = np.where(over, died, np.int8(UNKNOWN))
        mortality = np.where(died_here, np.float32(1.0), mortality)
    else:
        died, died_90d = over, state.died_90d  # as unknown as before
    paid = transition_reward(
        state.patients, patients, preprocessing, over, died, reward, transition.scored
    )
    sofa = patients.sofa(preprocessing)
    return EpisodeState(patients, sofa, end, died_90d, mortality, transition.epistemic), paid


def describe(state: EpisodeState, preprocessing: Preprocessing) -> dict[str, NDArray[Any]]:
    """The ``info`` of n episodes, one array per entry; the table is in :class:`SepsisEnv`."""
    entries = _arrays(state.patients, preprocessing) | _numbers(state, preprocessing)
    # copies: users keep infos, and must not reach into the episode through them
    return {
        key: entry.astype(np.int64) if entry.dtype == np.int8 else entry.copy()
        for key, entry in entries.items()
    }


def describe_one(state: EpisodeState, preprocessing: Preprocessing) -> dict[str, Any]:
    """The ``info`` of a single episode: arrays for the features, plain numbers for the rest."""
    shown: dict[str, Any] = _arrays(state.patients, preprocessing)
    for key, x in shown.items():
        shown[key] = x[0].copy()
    for key, x in _numbers(state, preprocessing).items():
        shown[key] = x.item()
    return shown


def _arrays(patients: Patients, preprocessing: Preprocessing) -> dict[str, NDArray[Any]]:
    """The entries with several numbers to a patient."""
    return {
        "state": patients.values,
        "measured": patients.measured,
        "known": patients.known(preprocessing),
        "age_hours": preprocessing.hours(patients.age),
        "static": patients.static,
    }


def _numbers(state: EpisodeState, preprocessing: Preprocessing) -> dict[str, NDArray[Any]]:
    """The entries with one number to a patient."""
    patients = state.patients
    return {
        "ventilated": patients.ventilated,
        "sofa": state.sofa,
        "previous_action": patients.previous_action(preprocessing),
        "previous_fluid_ml": patients.previous_fluid_ml,
        "previous_norepinephrine_equivalent": patients.previous_norepinephrine_equivalent,
        "step": patients.step,
        "hours": preprocessing.clock(patients.step),
        "mortality_90d": state.mortality_90d,
        "epistemic": state.epistemic,
        "end": state.end,
        "died_90d": state.died_90d,
    }
