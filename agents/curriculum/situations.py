"""States of logged stays as an agent meets them: the patient, what came before, what if."""

from collections.abc import Iterator
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from agents.llm.prompt import Past
from sepsis_gym.agent import Info
from sepsis_gym.dynamics import Simulation, Simulator, TransitionModel
from sepsis_gym.envs import SepsisEnv, SepsisReplayEnv
from sepsis_gym.patients import Patients
from sepsis_gym.trajectories import Trajectories


@dataclass(frozen=True)
class Situation:
    """A state in which a decision is due.

    Attributes:
        observation: [107].
        info: The patient in clinical units.
        past: The stay before it.
        simulator: Answers "what if".
    """

    observation: NDArray[np.float32]
    info: Info
    past: Past
    simulator: Simulator


@dataclass(frozen=True)
class LoggedSituation(Situation):
    """One that was logged.

    Attributes:
        row: Of the log.
        action: What the clinician gave.
        following: ``info`` of the state after it.
    """

    row: int
    action: int
    following: Info


@dataclass(frozen=True)
class Bedside:
    """Simulates for one patient."""

    model: TransitionModel
    patients: Patients

    def simulate(self, actions: NDArray[np.integer]) -> Simulation:
        """The step under each of k actions."""
        doses = self.model.preprocessing.action_bins.doses(np.asarray(actions))
        return self.model.simulate(self.patients, *doses)


def logged_situations(
    log: Trajectories, model: TransitionModel, *, progress: str
) -> Iterator[LoggedSituation]:
    """Every decision of every stay, stay by stay.

    Args:
        log: The stays.
        model: World model to simulate in; it follows the stays.
        progress: What the progress bar says.
    """
    env = SepsisReplayEnv(log, model=model)
    for position, stay in enumerate(tqdm(log.stays.stay_id.tolist(), progress, disable=None)):
        observation, info = env.reset(options={"stay_id": stay})
        past, over = Past(), False
        row = int(log.offsets[position])
        while not over:
            before, patients = deepcopy(past), env.patients
            action = env.logged_action
            past.add(info)
            next_observation, _, over, _, following = env.step(action)
            yield LoggedSituation(
                observation, info, before, Bedside(model, patients), row, action, following
            )
            observation, info, row = next_observation, following, row + 1


class ModelStay:
    """A stay in the world model, of which one decision, drawn by its seed, counts."""

    def __init__(self, model: TransitionModel, seed: int) -> None:
        """Begins with a patient of the model's; all luck is the seed's."""
        self._model, self._env, self._past, self.paid = model, SepsisEnv(model), Past(), 0.0
        self._observation, self._info = self._env.reset(seed=seed)
        self._moves = 0
        self._due = int(np.random.default_rng(seed).integers(model.preprocessing.max_steps))
        self.over = False
        self._before: tuple[Any, ...] | None = None

    @property
    def due(self) -> bool:
        """Whether the decision that counts is the next, or was made."""
        return self._moves >= self._due

    def situation(self) -> Situation:
        """Where it stands."""
        return Situation(self._observation, self._info, deepcopy(self._past), self._env)

    def branch(self) -> "ModelStay":
        """Another stay that is the same so far, luck included."""
        other = copy(self)
        other._env, other._past = SepsisEnv(self._model), deepcopy(self._past)
        other._env.reset(seed=0)
        other._env.set_state(self._env.get_state())
        return other

    def move(self, action: int) -> None:
        """The stay's next step; one that would end before its decision is due waits there."""
        if not self.due:
            self._before = self._env.get_state(), self._observation, self._info
        observation, paid, self.over, _, info = self._env.step(action)
        if self.over and not self.due and self._before is not None:
            state, self._observation, self._info = self._before
            self._env.set_state(state)
            self._due, self.over = self._moves, False
            return
        self._past.add(self._info)
        self._observation, self._info = observation, info
        self._moves += 1
        self.paid += float(paid)


def evenly(kinds: NDArray[np.integer], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draws states of all kinds alike; of a kind all come before one comes again.

    As they are logged, refractory shock is so rare that what suits all others is learned for it.

    Args:
        kinds: Of each state.
        n: How many to draw.
        rng: Source of the order.
    """
    of_kind = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
    each = -(-n // len(of_kind))
    columns = []
    for states in of_kind:
        many = [rng.permutation(states) for _ in range(-(-each // len(states)))]
        columns.append(np.concatenate(many)[:each])
    return np.stack(columns, 1).ravel()[:n]
