"""What agents are truly worth: they treat new patients of a synthetic cohort's population."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from evaluation.estimators import Floats
from evaluation.target import at_once, for_one_stay
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.agent import Agent, BatchAgent, SimulatingAgent
from sepsis_gym.dynamics import Simulation, TransitionModel, Treated
from sepsis_gym.envs.episode import begin, describe_one
from sepsis_gym.errors import ConfigError
from sepsis_gym.patients import Patients, encode_observation
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.registration import ward_of
from sepsis_gym.trajectories import Trajectories

_MINUTES_PER_DAY = 24 * 60.0


@dataclass(frozen=True)
class Measured:
    """A mean over patients with its interval."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """All three as the format of a number says: ``0.28 [0.09, 0.46]``."""
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


@dataclass(frozen=True)
class TrueValue:
    """What an agent reaches with new patients, and beside it the clinicians with the same ones.

    Attributes:
        value: Mean discounted return of those whom a cohort would count as stays; an estimate from
            the cohort aims at this number.
        difference: The same minus the clinicians'.
        survival: Share alive at 90 days of all who reached the first state.
        survival_difference: The same minus the clinicians'.
        hypotension: Minutes per day with a true mean arterial pressure below 65 mmHg.
        hypotension_difference: The same minus the clinicians'.
        uncounted_share: Of those who reached the first state, how many are no stay of a cohort.
        episodes: Patients treated.
    """

    value: Measured
    difference: Measured
    survival: Measured
    survival_difference: Measured
    hypotension: Measured
    hypotension_difference: Measured
    uncounted_share: float
    episodes: int


@dataclass(frozen=True)
class TruthConfig:
    """How true values are measured.

    Attributes:
        episodes: Patients of an agent that can be asked in batches.
        single_episodes: Patients of any other agent, each a stay of its own.
        seed: Of the patients and their luck; not the seed of the cohort.
        confidence: Coverage of the intervals.
    """

    episodes: int = 4096
    single_episodes: int = 200
    seed: int = 2**31
    confidence: float = 0.95

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if min(self.episodes, self.single_episodes) < 2 or self.seed < 0:
            raise ConfigError("a true value needs 2 episodes or more and a seed of 0 or more")
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence must lie in (0, 1), got {self.confidence}")


class Truth:
    """The population behind a synthetic cohort.

    All batch agents meet the same patients with the same luck, and so do all others; the clinicians
    of the cohort treat both, and every difference is paired.

        truth = Truth(Trajectories.load("runs/cohort"), gamma=0.99)
        print(truth.clinicians.value, truth.value(agent).difference)
    """

    def __init__(
        self, trajectories: Trajectories, *, gamma: float, config: TruthConfig | None = None
    ) -> None:
        """Takes clinicians, clock, dose levels and reward from the cohort.

        Args:
            trajectories: A synthetic cohort.
            gamma: Discount per step.
            config: How many patients, which luck.

        Raises:
            ConfigError: The cohort is not synthetic, or its states and actions share a window.
        """
        self.preprocessing = trajectories.preprocessing
        self.config = config or TruthConfig()
        self._gamma = gamma
        self._ward = ward_of(trajectories)

    @cached_property
    def clinicians(self) -> TrueValue:
        """What the cohort's own clinicians reach."""
        return self.compare(self._usual, self._usual)

    def value(
        self, agent: Agent, *, softening: float = 0.0, model: TransitionModel | None = None
    ) -> TrueValue:
        """Lets an agent treat, beside the clinicians; arguments as :meth:`treated_by`."""
        treated = self.treated_by(agent, softening=softening, model=model)
        batched = isinstance(agent, BatchAgent)
        return self.compare(treated, self._usual if batched else self.usual_one_by_one)

    def treated_by(
        self, agent: Agent, *, softening: float = 0.0, model: TransitionModel | None = None
    ) -> Treated:
        """What became of the patients.

        Args:
            agent: The agent; at every seed it meets what the others met.
            softening: Share of decisions taken at random, to judge a softened policy.
            model: What an agent that asks "what if" is answered with, as in the evaluation.
        """
        config = self.config
        if isinstance(agent, BatchAgent):
            agent.reset()
            rng = np.random.default_rng([config.seed, 3])  # the patients draw from other streams
            choose = _Batch(agent, self.preprocessing, softening, rng)
            return self._ward(config.episodes, config.seed, choose)

        def treat(seed: int) -> tuple[int, Treated]:
            luck = np.random.default_rng([seed, 3])
            bed = _Bed(for_one_stay(agent), self.preprocessing, softening, luck, model)
            return seed, self._ward(1, seed, bed)

        with at_once(agent) as each:
            return self._one_by_one(treat, each)

    @cached_property
    def _usual(self) -> Treated:
        return self._ward(self.config.episodes, self.config.seed)

    @cached_property
    def usual_one_by_one(self) -> Treated:
        """What becomes of the patients that single agents meet under the clinicians."""
        return self._one_by_one(lambda seed: (seed, self._ward(1, seed)))

    def _one_by_one(
        self,
        treat: Callable[[int], tuple[int, Treated]],
        each: Callable[..., Iterable[tuple[int, Treated]]] = map,
    ) -> Treated:
        n, first = self.config.single_episodes, self.config.seed
        stays = tqdm(each(treat, range(first, first + n)), "truth", n, unit="stay", disable=None)
        parts = [treated for _, treated in sorted(stays, key=lambda stay: stay[0])]
        return Treated(
            *(np.concatenate([getattr(p, item.name) for p in parts]) for item in fields(Treated))
        )

    def compare(
        self, treated: Treated | Sequence[Treated], usual: Treated | Sequence[Treated]
    ) -> TrueValue:
        """Some treatment of these patients beside another of the same, in the clinicians' place.

        Several, as by agents trained with other seeds, count as their mean, patient by patient.
        """
        gamma, confidence = self._gamma, self.config.confidence
        mine, theirs = (_ratios_of_all(each, gamma) for each in (treated, usual))
        means = {name: mean_over(*mine[name], confidence) for name in mine}
        differences = {
            f"{name}_difference": _difference(mine[name], theirs[name], confidence) for name in mine
        }
        differences["difference"] = differences.pop("value_difference")
        counted, present = mine["value"][1], mine["survival"][1]
        return TrueValue(
            **means,
            **differences,
            uncounted_share=float(1 - counted.sum() / present.sum()),
            episodes=len(present),
        )


_Ratio = tuple[Floats, Floats]
"""[n] numerators and [n] denominators: a mean over some of the patients is a ratio of sums."""


def _ratios_of_all(treated: Treated | Sequence[Treated], gamma: float) -> dict[str, _Ratio]:
    several = [treated] if isinstance(treated, Treated) else treated
    each = [_ratios(one, gamma) for one in several]
    means = {name: np.mean([one[name] for one in each], axis=0) for name in each[0]}
    return {name: (top, bottom) for name, (top, bottom) in means.items()}


def _ratios(treated: Treated, gamma: float) -> dict[str, _Ratio]:
    discount = np.power(gamma, np.arange(treated.reward.shape[1]))
    counted, present = treated.mask.any(1).astype(float), treated.present.astype(float)
    return {
        "value": ((treated.reward * treated.mask) @ discount, counted),
        "survival": (present * (1 - treated.mortality_90d), present),
        "hypotension": (_MINUTES_PER_DAY * treated.hypotensive_hours, treated.hours),
    }


def _influence(top: Floats, bottom: Floats) -> tuple[float, Floats]:
    """The ratio, and [n] what each patient moves it by (times n)."""
    if not bottom.sum() > 0:
        return float("nan"), np.full(len(top), np.nan)
    ratio = float(top.sum() / bottom.sum())
    return ratio, (top - ratio * bottom) / bottom.mean()


def mean_over(top: Floats, bottom: Floats, confidence: float) -> Measured:
    """The sum of [n] numerators over that of [n] denominators, n being independent."""
    return _measured(*_influence(top, bottom), confidence)


def _difference(mine: _Ratio, theirs: _Ratio, confidence: float) -> Measured:
    (value, moved), (other, moved_other) = _influence(*mine), _influence(*theirs)
    return _measured(value - other, moved - moved_other, confidence)


def _measured(value: float, influence: Floats, confidence: float) -> Measured:
    """Interval by the delta method."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    margin = z * float(influence.std(ddof=1)) / len(influence) ** 0.5
    return Measured(value, value - margin, value + margin)


@dataclass
class _Batch:
    """An agent that is asked about all patients at once."""

    agent: BatchAgent
    preprocessing: Preprocessing
    softening: float
    rng: np.random.Generator

    def __call__(self, patients: Patients) -> NDArray[np.int64]:
        """[n] actions, drawn with numbers that do not depend on the agent."""
        observations = encode_observation(patients, self.preprocessing)
        own = np.asarray(self.agent.batch_probabilities(observations), np.float64)
        cumulative = ((1 - self.softening) * own + self.softening / N_ACTIONS).cumsum(1)
        drawn = self.rng.random((len(patients), 1)) * cumulative[:, -1:]
        return (cumulative > drawn).argmax(1)


@dataclass
class _Bed:
    """An agent that is asked about one patient after the other; also the agent's simulator."""

    agent: Agent
    preprocessing: Preprocessing
    softening: float
    rng: np.random.Generator
    model: TransitionModel | None
    patients: Patients | None = None

    def __call__(self, patients: Patients) -> NDArray[np.int64]:
        """[1] action."""
        before, self.patients = self.patients, patients
        if patients.step[0] == 0:
            self.agent.reset()
            if isinstance(self.agent, SimulatingAgent):
                self.agent.bind(self)
        elif before is not None and self.model is not None:
            self.patients = self.model.follow(before, patients)
        at_random, action = self.rng.random(), int(self.rng.integers(N_ACTIONS))
        if at_random >= self.softening:
            info: dict[str, Any] = describe_one(
                begin(patients, self.preprocessing), self.preprocessing
            )
            action = self.agent.act(encode_observation(patients, self.preprocessing)[0], info)
        return np.array([action])

    def simulate(self, actions: NDArray[np.integer]) -> Simulation:
        """Predicts the next step under each action by the world model, never by the truth."""
        if self.model is None or self.patients is None:
            raise ConfigError("this agent asks what if: give a world model to answer it")
        doses = self.preprocessing.action_bins.doses(np.atleast_1d(actions))
        return self.model.simulate(self.patients, *doses)
