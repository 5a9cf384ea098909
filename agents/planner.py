"""Planning in a world model: every choice is tried there before one is made."""

from typing import Self

import numpy as np
from numpy.typing import NDArray

from agents.guideline import GuidelineAgent
from agents.policy import WORLD_MODEL, AgentRecord, BatchPolicy, one_hot
from sepsis_gym.actions import N_ACTIONS, N_LEVELS, decode_action
from sepsis_gym.dynamics import Simulation, TransitionModel
from sepsis_gym.errors import ConfigError
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.patients import Patients, decode_observation, encode_observation
from sepsis_gym.registration import ModelLike, resolve_model
from sepsis_gym.reward import RewardConfig, step_reward

_AT_ONCE = 1024
_LACTATE = FEATURE_INDEX["lactate"]
_Floats = NDArray[np.float64]


class PlanningAgent(BatchPolicy):
    """Takes the action after which the world model expects most, the guideline followed thereafter.

    Expected are the published reward of each step and that of the outcome, by the predicted 90-day
    risk when the look ahead ends, less a charge for the model's doubt. The model takes each
    observation as a patient's first, so that many patients can be asked about at once.

    With ``depth`` above 1 the actions after the first are searched as well, all that are within
    reach: a tree search over the model's expected course.

    Source: Tesauro & Galperin 1996 (rollouts of a base policy, here of the model's expected
        course); the charge is that of Yu et al. 2020 (MOPO).
    """

    def __init__(
        self,
        model: ModelLike = "default",
        *,
        horizon: int = 3,
        depth: int = 1,
        reach: int = 1,
        penalty: float = 20.0,
    ) -> None:
        """Opens the world model, whose scales and dose levels the observations must have.

        Args:
            model: The world model, its name or its folder.
            horizon: Steps it looks ahead.
            depth: Steps of them whose action is searched; the guideline gives the rest. The time
                it takes grows with the number of actions within reach to this power.
            reach: Levels of either drug by which it may differ from the guideline; 4 allows all.
            penalty: Charged per unit of the ensemble's disagreement.

        Raises:
            ConfigError: A setting is outside what it may be.
        """
        super().__init__()
        if not 1 <= depth <= horizon or not 0 <= reach < N_LEVELS or penalty < 0:
            raise ConfigError(
                "depth must be 1 or more, horizon not less, reach 0 to 4, penalty 0 or more; got "
                f"{depth}, {horizon}, {reach}, {penalty}"
            )
        self.model: TransitionModel = resolve_model(model)
        self.preprocessing = self._scales = self.model.preprocessing
        self._guideline = GuidelineAgent(self._scales)
        self._settings = {"horizon": horizon, "depth": depth, "reach": reach, "penalty": penalty}
        self._name = model
        self.horizon, self.depth, self.reach, self.penalty = horizon, depth, reach, penalty

    def batch_probabilities(self, observations: NDArray[np.float32]) -> _Floats:
        """One-hot action probabilities [n, 25] of observations [n, 107]."""
        if not len(observations):
            return np.zeros((0, N_ACTIONS))
        within_reach = min(2 * self.reach + 1, N_LEVELS) ** 2
        at_once = max(1, _AT_ONCE // within_reach ** (self.depth - 1))
        chosen = [
            self._best(decode_observation(some, self._scales), self.horizon, self.depth)[0]
            for some in np.split(observations, range(at_once, len(observations), at_once))
        ]
        return one_hot(np.concatenate(chosen))

    def value(self, patients: Patients, action: NDArray[np.int64]) -> _Floats:
        """Expected return of an action for each of k patients.

        Args:
            patients: k states.
            action: [k] action ids.
        """
        return self._value(patients, action, self.horizon, self.depth)

    def _best(
        self, patients: Patients, horizon: int, depth: int
    ) -> tuple[NDArray[np.int64], _Floats]:
        """[k] the best action within reach of the guideline's, and what it is worth."""
        of_all = np.stack(decode_action(np.arange(N_ACTIONS)), axis=1)
        usual = of_all[self._usual(patients)]
        within = np.abs(of_all[None] - usual[:, None]).max(-1) <= self.reach
        row, action = np.nonzero(within)
        value = np.full(within.shape, -np.inf)
        value[row, action] = self._value(patients.take(row), action, horizon, depth)
        return value.argmax(1), value.max(1)

    def _usual(self, patients: Patients) -> NDArray[np.int64]:
        return self._guideline.choose(encode_observation(patients, self._scales))

    def _value(
        self, patients: Patients, action: NDArray[np.int64], horizon: int, depth: int
    ) -> _Floats:
        """[k] expected return of an action over so many steps, of which ``depth`` are searched."""
        reward, scales = RewardConfig(), self._scales
        seen = self.model.simulate(patients, *scales.action_bins.doses(action))
        over = patients.step + 1 >= scales.max_steps
        ends = np.where(over, 1.0, seen.died + seen.discharged)
        judged = over | (horizon == 1)
        dead = np.where(judged, seen.mortality_90d, _dead_of_ended(seen))
        total = (1 - ends) * self._within(patients, seen, reward)
        total += np.where(judged, 1.0, ends) * reward.survived
        total += dead * (reward.died - reward.survived)
        total -= self.penalty * seen.epistemic
        if horizon > 1:
            following = _moved(patients, seen)
            if depth > 1:
                later = self._best(following, horizon - 1, depth - 1)[1]
            else:
                later = self._value(following, self._usual(following), horizon - 1, 1)
            total += (1 - ends) * later
        return np.asarray(total, np.float64)

    def _within(self, patients: Patients, seen: Simulation, reward: RewardConfig) -> _Floats:
        """[k] reward of the step for those who stay."""
        known = patients.known(self._scales)[:, _LACTATE]
        goes_on = np.zeros(len(patients), bool)
        lactate = np.where(known, patients.values[:, _LACTATE], np.nan)
        before, after = patients.sofa(self._scales), seen.sofa
        after_lactate = seen.values[:, _LACTATE]
        return step_reward(before, after, lactate, after_lactate, goes_on, goes_on, reward)

    def to_record(self) -> AgentRecord:
        """What is stored: the world model by its name or folder, and by what it was."""
        made_of = {WORLD_MODEL: getattr(self.model, "digest", None)}
        return AgentRecord({"model": str(self._name), **self._settings}, provenance=made_of)

    @classmethod
    def from_record(cls, record: AgentRecord) -> Self:
        """The agent that was stored."""
        return cls(**record.config)


def _dead_of_ended(seen: Simulation) -> _Floats:
    """[k] probability that the stay ends in the step and the patient is dead by day 90."""
    later = (seen.mortality_90d - seen.died) / np.maximum(1 - seen.died, 1e-6)
    return np.asarray(seen.died + seen.discharged * np.clip(later, 0, 1), np.float64)


def _moved(patients: Patients, seen: Simulation) -> Patients:
    """The patients as the model expects them to be; what is not known stays so."""
    return patients.moved(
        seen.values,
        patients.age,
        seen.ventilated > 0.5,
        seen.fluid_ml,
        seen.norepinephrine_equivalent,
        patients.memory,
    )


class GreedyAgent(PlanningAgent):
    """Looks one step ahead, at all 25 actions."""

    def __init__(self, model: ModelLike = "default", *, penalty: float = 20.0) -> None:
        """See :class:`PlanningAgent`."""
        super().__init__(model, horizon=1, reach=N_LEVELS - 1, penalty=penalty)
        self._settings = {"penalty": penalty}
