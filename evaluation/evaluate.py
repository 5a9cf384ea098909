"""Scores agents on the held-out stays of a cohort."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from evaluation import estimators
from evaluation.answer_store import AnswerStore
from evaluation.behavior import BehaviorConfig, BehaviorReport, check_behavior, fit_behavior_policy
from evaluation.estimators import Floats
from evaluation.fqe import FQEConfig
from evaluation.intervals import IntervalKind
from evaluation.neural_fqe import neural_fqe
from evaluation.propensities import Propensities
from evaluation.q_values import CrossFit, QValues
from evaluation.results import Results, Row, Sensitivity
from evaluation.rollout import AnyEnv, RolloutValue, rollout_value
from evaluation.safety import Guidelines, assess_safety
from evaluation.scoring import Scoring
from evaluation.target import agent_probabilities, soften
from evaluation.trust import TrustGate, judge
from sepsis_gym.actions import N_ACTIONS, encode_action
from sepsis_gym.agent import Agent, BatchAgent
from sepsis_gym.dynamics import TransitionModel
from sepsis_gym.errors import ConfigError
from sepsis_gym.trajectories import Trajectories

_SOFTENINGS = (0.001, 0.01, 0.05)
_RATIO_CAPS = (None, 10.0, 5.0, 2.0)
_GAMMAS = (0.9, 1.0)


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of an evaluation.

    Attributes:
        gamma: Discount per step.
        softening: Share of the uniform policy mixed into an agent that gives some action less
            than ``softening / 25``; such a target would lose support at the first disagreement.
            Uniform, not the behavior policy, so that the target does not depend on a fit.
        resamples: Bootstrap resamples of stays.
        confidence: Coverage of the intervals.
        interval: Kind of the intervals; that of FQE is always the percentile one, of refits.
        seed: Seeds the behavior policy, the bootstrap and the rollouts.
        ratio_cap: Largest per-step ratio; None leaves them as they are. A cap trades variance for
            bias.
        q_folds: Folds of patients; the Q that DR, WDR and FQE read at a stay was fitted without the
            stay's fold. Fewer than two would read Q where it was fitted, which gave DR and WDR a
            bias of +.19 and intervals that never held the truth (measured on the icu-sepsis MDP).
        neural_fqe: Whether batch agents get a value from a neural Q as well, through d3rlpy; it has
            no interval and takes half a minute.
        rollout_episodes: Episodes per agent, where an environment is given.
        behavior: How the behavior policy is fitted.
        fqe: How Q is fitted.
        guidelines: Thresholds of the safety measures.
        gate: Limits of the trust verdict.
    """

    gamma: float = 0.99
    softening: float = 0.01
    resamples: int = 1000
    confidence: float = 0.95
    interval: IntervalKind = "percentile"
    seed: int = 0
    ratio_cap: float | None = None
    q_folds: int = 5
    neural_fqe: bool = False
    rollout_episodes: int = 256
    behavior: BehaviorConfig = field(default_factory=BehaviorConfig)
    fqe: FQEConfig = field(default_factory=FQEConfig)
    guidelines: Guidelines = field(default_factory=Guidelines)
    gate: TrustGate = field(default_factory=TrustGate)

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not 0 <= self.gamma <= 1 or not 0 <= self.softening < 1:
            raise ConfigError("gamma must lie in [0, 1] and softening in [0, 1)")
        if not 0 < self.confidence < 1 or self.resamples < 1 or self.rollout_episodes < 1:
            raise ConfigError("confidence must lie in (0, 1); resamples and episodes be positive")
        if self.q_folds < 2:
            raise ConfigError(
                f"q_folds must be 2 or more, got {self.q_folds}: a Q fitted on the evaluated stays "
                "themselves biases DR and WDR"
            )
        if self.seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {self.seed}")
        if self.ratio_cap is not None and self.ratio_cap < 1:
            raise ConfigError(f"ratio_cap must be 1 or more, got {self.ratio_cap}")


class Evaluation:
    """One evaluation of a cohort, agent by agent.

    The stays are split, the behavior policy fitted and the bootstrap drawn once; each
    :meth:`row` is independent of the others, so rows may be computed in any order, on several
    days, and kept.
    """

    def __init__(
        self,
        trajectories: Trajectories,
        config: EvaluationConfig | None = None,
        *,
        model: TransitionModel | None = None,
        env: AnyEnv | None = None,
        known: Propensities | None = None,
    ) -> None:
        """Fits the behavior policy and prepares what all rows share.

        Args:
            trajectories: A cohort with a training and a test split.
            config: Settings.
            model: What agents that ask "what if" are answered with.
            env: Where to measure the agents' return as well; a vector environment runs batch
                agents only, and the rows of others say so.
            known: The clinicians' true probabilities, in place of the fitted behavior policy.

        Raises:
            ConfigError: The environment was made with other scales or dose levels.
            UnknownNameError: A split holds no stay.
            SupportError: There are too few patients.
            SourceError: ``known`` does not fit the cohort.
        """
        if env is not None:
            inside: Any = env if isinstance(env, VectorEnv) else env.unwrapped
            if getattr(inside, "preprocessing", None) != trajectories.preprocessing:
                raise ConfigError(
                    "the environment differs from the cohort in clock, scales or dose levels; "
                    "train its world model on this cohort"
                )
        self.trajectories, self.config = trajectories, config or EvaluationConfig()
        self._model, self._env = model, env
        self.train, self.test = trajectories.split("train"), trajectories.split("test")
        self._fit_behavior(known)
        config, n = self.config, len(self.test)
        index = estimators.resample_index(n, config.resamples, np.random.default_rng(config.seed))
        self._scoring = Scoring(
            self.test,
            estimators.resample_counts(index, n),
            gamma=config.gamma,
            confidence=config.confidence,
            kind=config.interval,
        )

    def _fit_behavior(self, known: Propensities | None) -> None:
        test = self.test
        config = self.config
        fit = fit_behavior_policy(self.train, config.behavior, known, seed=config.seed)
        # [R, 25] one-hot clinicians, rows of final states all 0
        self._logged = np.where(test.is_decision[:, None], np.eye(N_ACTIONS)[test.action], 0.0)
        self._behavior_taken = fit.taken(test)
        self.behavior: BehaviorReport = check_behavior(fit, test)

    @cached_property
    def _q_with_train(self) -> CrossFit:
        """For agents that can be asked about the training split too."""
        split = self.trajectories.stays.split
        order = np.concatenate([np.flatnonzero(split == name) for name in ("train", "test")])
        return self._cross_fit(self.trajectories.select(order), len(self.train))

    @cached_property
    def _q_of_test(self) -> CrossFit:
        return self._cross_fit(self.test, 0)

    def _cross_fit(self, log: Trajectories, besides: int) -> CrossFit:
        config = self.config
        return CrossFit(
            log,
            besides,
            self._scoring.counts[: config.fqe.refits],
            config.fqe,
            gamma=config.gamma,
            folds=config.q_folds,
            rng=np.random.default_rng([config.seed, 3]),
        )

    def check(self, name: str, agent: Agent) -> None:
        """Refuses an agent whose row would mean something else; cheap.

        Raises:
            ConfigError: It is called "clinicians", or was made with other scales or dose levels.
        """
        if name == "clinicians":
            raise ConfigError('no agent may be called "clinicians": that row is always there')
        own = getattr(agent, "preprocessing", None)
        if own is not None and own != self.trajectories.preprocessing:
            raise ConfigError(
                f"agent {name} was trained on other data: clock, scales or dose levels differ; "
                "train it on this cohort"
            )

    def clinicians(self) -> Row:
        """The plain mean of the logged returns, which belongs first in every table."""
        return Row(
            agent="clinicians",
            policy="clinicians",
            trust="ok",
            reasons=("plain mean of the logged returns, nothing is reweighted",),
            estimates={"mean_return": self._scoring.mean_return()},
            safety=assess_safety(self.test, self._logged, self.config.guidelines),
            action_frequency=self._mean_over_decisions(self._logged),
            sensitivity=self._other_gammas(np.ones(len(self._logged))),
        )

    def row(self, name: str, agent: Agent, kept: AnswerStore | None = None) -> Row:
        """Scores one agent.

        Q is cross-fitted on the test stays, and also on the training split, unless the agent is no
        function of the observation alone and was walked through the logged test stays only.

        Args:
            name: What it is called.
            agent: The agent.
            kept: See :func:`~evaluation.target.agent_probabilities`.

        Raises:
            ConfigError: See :meth:`check`.
            SupportError: There are too few patients to cross-fit.
            ValueError: The agent's probabilities are none.
        """
        self.check(name, agent)
        config, test = self.config, self.test
        answers = agent_probabilities(name, agent, test, self._model, kept)
        own = answers.probabilities
        softening = config.softening if own.min() < config.softening / N_ACTIONS else 0.0
        fitted = self._q_values(name, agent, soften(own, softening), softening)
        taken = (own * self._logged).sum(1)
        ratio = self._ratio(taken, softening, config.ratio_cap)
        capped = float((self._ratio(taken, softening, None) > ratio)[test.is_decision].mean())
        estimates = self._scoring.estimates(ratio, fitted)
        mean_rho = estimates.pop("mean_rho")
        weights = estimators.weight_diagnostics(test.padded(ratio), test.mask)
        trust, reasons = judge(
            weights,
            n_stays=len(test),
            lost_resamples=max(estimate.lost_resamples for estimate in estimates.values()),
            q_outside_share=fitted.outside_share,
            behavior_mean_rho=self.behavior.doubtful_rho,
            gate=config.gate,
        )
        if capped:
            reasons = (*reasons, f"{capped:.1%} of the ratios cut to {config.ratio_cap:g}")
        if answers.samples is not None:
            reasons = (*reasons, f"probabilities are shares of {answers.samples} answers per state")
        rollout, without = self._rollout(agent)
        return Row(
            agent=name,
            policy=f"{name} + {softening:.3g} uniform" if softening else name,
            trust=trust,
            reasons=(*reasons, *without),
            estimates=estimates,
            safety=assess_safety(test, own, config.guidelines),
            action_frequency=self._mean_over_decisions(own),
            weights=weights,
            mean_rho_interval=(mean_rho.low, mean_rho.high),
            capped_share=capped,
            q_source=fitted.source,
            q_outside_share=fitted.outside_share,
            counts=dict(getattr(agent, "counts", {})),
            world_model_return=rollout,
            neural_fqe=self._neural_fqe(agent, softening),
            sensitivity=self._sensitivity(taken, softening),
            softening=softening,
        )

    def _mean_over_decisions(self, probabilities: Floats) -> tuple[float, ...]:
        return tuple(probabilities[self.test.is_decision].mean(0).tolist())

    def results(self, rows: Iterable[Row]) -> Results:
        """The table of these rows, with what must be read beside it."""
        return Results(
            rows=tuple(rows),
            behavior=self.behavior,
            cohort={
                "source": self.trajectories.manifest.source,
                "content_hash": self.trajectories.content_hash,
                "n_stays": len(self.test),
                "n_decisions": int(self.test.n_decisions.sum()),
                "n_training_stays": len(self.train),
            },
            config=asdict(self.config),
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        low_fluid = np.zeros_like(self._logged)
        low_fluid[:, encode_action(1, 0)] = 1.0
        adherence = assess_safety(self.test, low_fluid, self.config.guidelines).adherence
        return (
            "Intervals resample stays with the behavior policy held fixed, and with Q held fixed "
            f"in DR and WDR; that of FQE is from {self.config.fqe.refits} refits of Q.",
            'Adherence rewards doing little: always "low fluid, no vasopressor" has '
            f"{adherence:.1%}.",
        )

    def _ratio(self, taken: Floats, softening: float, cap: float | None) -> Floats:
        """[R] ratios from the agent's own probability of the logged action, [R]."""
        ratio = soften(taken, softening) / self._behavior_taken
        used = np.minimum(ratio, np.inf if cap is None else cap)
        return np.where(np.isfinite(self._behavior_taken), used, 1.0)

    def _sensitivity(self, taken: Floats, softening: float) -> tuple[Sensitivity, ...]:
        """The grid of an agent; softening only where the agent had to be softened."""
        cap = self.config.ratio_cap
        rows: list[Sensitivity] = []
        for share in _SOFTENINGS if softening else ():
            rows += self._scoring.sensitivity(
                f"softening {share:g}", self._ratio(taken, share, cap)
            )
        for other in _RATIO_CAPS:
            name = "no ratio cap" if other is None else f"ratio cap {other:g}"
            rows += self._scoring.sensitivity(name, self._ratio(taken, softening, other))
        return (*rows, *self._other_gammas(self._ratio(taken, softening, cap)))

    def _other_gammas(self, ratio: Floats) -> tuple[Sensitivity, ...]:
        found = [self._scoring.sensitivity(f"gamma {g:g}", ratio, g) for g in _GAMMAS]
        return tuple(row for rows in found for row in rows)

    def _q_values(self, name: str, agent: Agent, target: Floats, softening: float) -> QValues:
        if not isinstance(agent, BatchAgent):
            return self._q_of_test(target)
        on_train = soften(agent_probabilities(name, agent, self.train).probabilities, softening)
        return self._q_with_train(np.concatenate([on_train, target]))

    def _neural_fqe(self, agent: Agent, softening: float) -> float | None:
        if not self.config.neural_fqe or not isinstance(agent, BatchAgent):
            return None
        gamma, seed = self.config.gamma, self.config.seed
        return neural_fqe(agent, self.train, self.test, gamma=gamma, softening=softening, seed=seed)

    def _rollout(self, agent: Agent) -> tuple[RolloutValue | None, tuple[str, ...]]:
        """The agent's return in the environment, or why there is none."""
        env, config = self._env, self.config
        if env is None:
            return None, ()
        if isinstance(env, VectorEnv) and not isinstance(agent, BatchAgent):
            return None, ("no world-model return: a vector environment needs a batch agent",)
        value = rollout_value(
            env,
            agent,
            episodes=config.rollout_episodes,
            seed=config.seed,
            gamma=config.gamma,
            confidence=config.confidence,
        )
        return value, ()


def evaluate_agents(
    agents: Mapping[str, Agent],
    trajectories: Trajectories,
    config: EvaluationConfig | None = None,
    *,
    model: TransitionModel | None = None,
    env: AnyEnv | None = None,
) -> Results:
    """Scores agents off-policy on the test split, with the clinicians as the first row.

    Args:
        agents: By name.
        trajectories: A cohort with a training and a test split.
        config: Settings.
        model: See :class:`Evaluation`.
        env: See :class:`Evaluation`.

    Raises:
        ConfigError: An agent is called "clinicians", or an agent or the environment was made
            with other scales or dose levels than the cohort.
        UnknownNameError: A split holds no stay.
        SupportError: There are too few patients.
        ValueError: An agent's probabilities are none.
    """
    evaluation = Evaluation(trajectories, config, model=model, env=env)
    for name, agent in agents.items():
        evaluation.check(name, agent)
    rows = [evaluation.row(name, agent) for name, agent in agents.items()]
    return evaluation.results([evaluation.clinicians(), *rows])
