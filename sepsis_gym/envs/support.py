"""What it costs to leave the treatments that the world model has seen enough of."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.dynamics import End, TransitionModel
from sepsis_gym.envs.episode import UNKNOWN, EpisodeState
from sepsis_gym.errors import ConfigError
from sepsis_gym.trajectories import Trajectories


@dataclass(frozen=True)
class SupportConfig:
    """Guards against an agent that exploits the errors of the model; the defaults change nothing.

    A learned model errs most where its members disagree, and an agent trained in it finds those
    places. Either guard can be used alone. Both rest on ``epistemic``, the members' disagreement
    about the step just taken, whose scale depends on the model: :func:`epistemic_of_log` says what
    it is for the treatments that were in fact given. It is 0 in the mechanistic patient, which
    errs nowhere.

    Attributes:
        penalty: Taken from the reward of each step per unit of ``epistemic``.
        limit: ``epistemic`` above which a step ends the episode: ``terminated``, with
            ``End.LEFT_SUPPORT`` in ``info["end"]`` and no outcome; None for no such end.
        halt_reward: Paid by that step in place of all else. It must lie below whatever the agent
            could earn by staying, or leaving becomes a way out; the default is the published
            price of a death.

    Source: Yu et al. 2020 (MOPO), eq. 5: reward less lambda u(s, a). Kidambi et al. 2020 (MOReL),
        def. 2: unknown state-actions lead to the absorbing HALT, which pays -kappa.
    """

    penalty: float = 0.0
    limit: float | None = None
    halt_reward: float = -15.0

    def __post_init__(self) -> None:
        """Rejects amounts that would draw an agent out of the support."""
        if not 0 <= self.penalty < np.inf:
            raise ConfigError(f"support penalty must be zero or more, got {self.penalty}")
        if self.limit is not None and not self.limit > 0:
            raise ConfigError(f"support limit must be None or above 0, got {self.limit}")
        if not np.isfinite(self.halt_reward):
            raise ConfigError(f"support halt_reward must be a number, got {self.halt_reward}")


def keep_to_support(
    following: EpisodeState, reward: NDArray[np.float64], config: SupportConfig
) -> tuple[EpisodeState, NDArray[np.float64]]:
    """Charges n steps for the model's doubt and ends those it knows too little about.

    Args:
        following: Where the episodes stand after the step.
        reward: [n] what the step paid.
        config: The guards.

    Returns:
        The state and the rewards with the guards in force.
    """
    charged = reward - config.penalty * following.epistemic if config.penalty else reward
    if config.limit is None:
        return following, charged
    left = following.epistemic > config.limit
    if not left.any():
        return following, charged
    # whatever the model says came next is not to be believed, an outcome least of all
    end = np.where(left, End.LEFT_SUPPORT, following.end).astype(np.int8)
    died = np.where(left, UNKNOWN, following.died_90d).astype(np.int8)
    halted = np.where(left, config.halt_reward, charged)
    return replace(following, end=end, died_90d=died), halted


def epistemic_of_log(model: TransitionModel, trajectories: Trajectories) -> NDArray[np.float32]:
    """[D] the model's disagreement about each logged decision, in the order of the rows.

    The scale on which to choose a :class:`SupportConfig`: a high quantile on stays held out from
    training is a limit that hardly any treatment that clinicians chose would cross.
    """
    rng = np.random.default_rng(0)  # the disagreement is about the mean and draws nothing
    found = np.zeros(len(trajectories.is_decision), np.float32)
    rows = trajectories.offsets[:-1]
    patients = trajectories.patients(rows)
    while len(rows):
        fluid, dose = trajectories.fluid_ml[rows], trajectories.norepinephrine_equivalent[rows]
        found[rows] = model.step(patients, fluid, dose, rng).epistemic
        patients = model.follow(patients, trajectories.patients(rows + 1))
        more = trajectories.is_decision[rows + 1]
        rows, patients = rows[more] + 1, patients.take(more)
    return found[trajectories.is_decision]
