"""Scores agents on the held-out stays of a cohort."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from evaluation import estimators
from evaluation.behavior import BehaviorConfig, BehaviorReport, check_behavior, fit_behavior_policy
from evaluation.estimators import Estimator, Floats, bootstrap, percentile_interval
from evaluation.fqe import FQEConfig, FQEDesign, LinearQ
from evaluation.results import Estimate, Results, Row
from evaluation.rollout import AnyEnv, RolloutValue, rollout_value
from evaluation.safety import Guidelines, assess_safety
from evaluation.target import agent_probabilities, soften
from evaluation.trust import TrustGate, judge
from sepsis_gym.actions import N_ACTIONS, encode_action
from sepsis_gym.agent import Agent, BatchAgent
from sepsis_gym.dynamics import TransitionModel
from sepsis_gym.errors import ConfigError, SupportError
from sepsis_gym.trajectories import Trajectories

_Q_FOLDS = 5
_METHODS: dict[str, Estimator] = {
    "wis": estimators.weighted_importance_sampling,
    "wpdis": estimators.weighted_per_decision_importance_sampling,
    "dr": estimators.doubly_robust,
    "wdr": estimators.weighted_doubly_robust,
    "fqe": estimators.direct_method,
}


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of an evaluation.

    Attributes:
        gamma: Discount per step.
        softening: Share of the uniform policy mixed into an agent that gives some action less
            than ``softening / 25``; such a target would lose support at the first disagreement.
            Uniform, not the behavior policy, so that the target does not depend on a fit.
        resamples: Bootstrap resamples of stays.
        confidence: Coverage of the percentile intervals.
        seed: Seeds the bootstrap and the rollouts.
        ratio_cap: Largest per-step ratio; None leaves them as they are. A cap trades variance for
            bias.
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
    seed: int = 0
    ratio_cap: float | None = None
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
        if self.seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {self.seed}")
        if self.ratio_cap is not None and self.ratio_cap < 1:
            raise ConfigError(f"ratio_cap must be 1 or more, got {self.ratio_cap}")


@dataclass(frozen=True)
class _Bench:
    """What all rows share; per-row arrays run over the rows of ``test``, final states included."""

    test: Trajectories
    train: Trajectories
    config: EvaluationConfig
    behavior: BehaviorReport
    logged: Floats  # [R, 25] one-hot clinicians, rows of final states all 0
    behavior_taken: Floats  # [R] behavior probability of the logged action, 1 in final states
    index: NDArray[np.int64]
    clinician_return: float
    clinician_resampled: Floats
    design: FQEDesign


@dataclass(frozen=True)
class _FittedValues:
    """Q at the rows of the test split: of the logged action and in expectation, [R] each."""

    q_taken: Floats
    v: Floats
    outside_share: float
    source: str


def evaluate_agents(
    agents: Mapping[str, Agent],
    trajectories: Trajectories,
    config: EvaluationConfig | None = None,
    *,
    model: TransitionModel | None = None,
    env: AnyEnv | None = None,
) -> Results:
    """Scores agents off-policy on the test split, with the clinicians as the first row.

    The behavior policy and Q come from the training split. Agents that are no function of the
    observation alone are walked through the logged test stays, and their Q is cross-fitted there.

    Args:
        agents: By name.
        trajectories: A cohort with a training and a test split.
        config: Settings.
        model: What agents that ask "what if" are answered with.
        env: Where to measure the agents' return as well; a vector environment runs batch agents
            only, and the rows of others say so.

    Raises:
        ConfigError: An agent is called "clinicians", or an agent or the environment was made
            with other scales or dose levels than the cohort.
        UnknownNameError: A split holds no stay.
        SupportError: There are too few patients.
        ValueError: An agent's probabilities are none.
    """
    if "clinicians" in agents:
        raise ConfigError('no agent may be called "clinicians": that row is always there')
    _check_alike(agents, trajectories, env)
    bench = _set_up(trajectories, config or EvaluationConfig())
    rows = [_clinician_row(bench)]
    rows += [_agent_row(name, agent, bench, model, env) for name, agent in agents.items()]
    return Results(
        rows=tuple(rows),
        behavior=bench.behavior,
        cohort={
            "source": trajectories.manifest.source,
            "content_hash": trajectories.content_hash,
            "n_stays": len(bench.test),
            "n_decisions": int(bench.test.n_decisions.sum()),
            "n_training_stays": len(bench.train),
        },
        config=asdict(bench.config),
        notes=_notes(bench),
    )


def _check_alike(
    agents: Mapping[str, Agent], trajectories: Trajectories, env: AnyEnv | None
) -> None:
    """Refuses agents and environments whose observations or doses mean something else."""
    for name, agent in agents.items():
        own = getattr(agent, "preprocessing", None)
        if own is not None and own != trajectories.preprocessing:
            raise ConfigError(
                f"agent {name} was trained on other data: clock, scales or dose levels differ; "
                "train it on this cohort"
            )
    if env is not None:
        inside: Any = env if isinstance(env, VectorEnv) else env.unwrapped
        if getattr(inside, "preprocessing", None) != trajectories.preprocessing:
            raise ConfigError(
                "the environment differs from the cohort in clock, scales or dose levels; "
                "train its world model on this cohort"
            )


def _set_up(trajectories: Trajectories, config: EvaluationConfig) -> _Bench:
    train, test = trajectories.split("train"), trajectories.split("test")
    policy = fit_behavior_policy(train, config.behavior)
    half = np.unique(train.stays.subject_id)[::2]
    other = fit_behavior_policy(
        train.select(np.isin(train.stays.subject_id, half)), config.behavior
    )
    decision = test.is_decision
    logged = np.where(decision[:, None], np.eye(N_ACTIONS)[test.action], 0.0)
    taken = (policy.probabilities(test.observations()) * logged).sum(1)
    rng = np.random.default_rng(config.seed)
    index = estimators.resample_index(len(test), config.resamples, rng)
    # With every ratio 1 importance sampling is the plain mean of the logged returns.
    on_policy = estimators.importance_sampling
    log = (test.padded(test.reward), np.ones(test.mask.shape), test.mask)
    return _Bench(
        test=test,
        train=train,
        config=config,
        behavior=check_behavior(policy, other, test),
        logged=logged,
        behavior_taken=np.where(decision, taken, 1.0),
        index=index,
        clinician_return=on_policy(*log, gamma=config.gamma),
        clinician_resampled=bootstrap(on_policy, *log, gamma=config.gamma, index=index),
        design=FQEDesign(train, config.fqe),
    )


def _notes(bench: _Bench) -> tuple[str, ...]:
    low_fluid = np.zeros_like(bench.logged)
    low_fluid[:, encode_action(1, 0)] = 1.0
    adherence = assess_safety(bench.test, low_fluid, bench.config.guidelines).adherence
    return (
        "Intervals resample stays with the behavior policy and Q held fixed; an FQE interval "
        "covers the choice of starting states only and is too narrow.",
        f'Adherence rewards doing little: always "low fluid, no vasopressor" has {adherence:.1%}.',
    )


def _clinician_row(bench: _Bench) -> Row:
    return Row(
        agent="clinicians",
        policy="clinicians",
        trust="ok",
        reasons=("plain mean of the logged returns, nothing is reweighted",),
        estimates={
            "mean_return": _estimate(bench.clinician_return, bench.clinician_resampled, bench)
        },
        safety=assess_safety(bench.test, bench.logged, bench.config.guidelines),
    )


def _agent_row(
    name: str, agent: Agent, bench: _Bench, model: TransitionModel | None, env: AnyEnv | None
) -> Row:
    config, test = bench.config, bench.test
    own = agent_probabilities(name, agent, test, model)
    softening = config.softening if own.min() < config.softening / N_ACTIONS else 0.0
    target = soften(own, softening)
    if isinstance(agent, BatchAgent):
        fitted = _fit_on_train(
            bench, soften(agent_probabilities(name, agent, bench.train), softening), target
        )
    else:
        fitted = _cross_fit(bench, target)
    ratio = np.where(test.is_decision, (target * bench.logged).sum(1), 1.0) / bench.behavior_taken
    cap = np.inf if config.ratio_cap is None else config.ratio_cap
    used = np.minimum(ratio, cap)
    estimates = _estimates(bench, used, fitted)
    mean_rho = estimates.pop("mean_rho")
    weights = estimators.weight_diagnostics(test.padded(used), test.mask)
    trust, reasons = judge(
        weights,
        n_stays=len(test),
        lost_resamples=max(estimate.lost_resamples for estimate in estimates.values()),
        q_outside_share=fitted.outside_share,
        behavior_mean_rho=bench.behavior.mean_rho_per_step[-1],
        gate=config.gate,
    )
    capped = float((ratio[test.is_decision] > cap).mean())
    if capped:
        reasons = (*reasons, f"{capped:.1%} of the ratios cut to {cap:g}")
    rollout = None
    if isinstance(env, VectorEnv) and not isinstance(agent, BatchAgent):
        reasons = (*reasons, "no world-model return: a vector environment needs a batch agent")
    elif env is not None:
        rollout = _rollout(env, agent, config)
    return Row(
        agent=name,
        policy=f"{name} + {softening:.3g} uniform" if softening else name,
        trust=trust,
        reasons=reasons,
        estimates=estimates,
        safety=assess_safety(test, own, config.guidelines),
        weights=weights,
        mean_rho_interval=(mean_rho.low, mean_rho.high),
        capped_share=capped,
        q_source=fitted.source,
        q_outside_share=fitted.outside_share,
        counts=dict(getattr(agent, "counts", {})),
        world_model_return=rollout,
    )


def _rollout(env: AnyEnv, agent: Agent, config: EvaluationConfig) -> RolloutValue:
    return rollout_value(
        env,
        agent,
        episodes=config.rollout_episodes,
        seed=config.seed,
        gamma=config.gamma,
        confidence=config.confidence,
    )


def _estimates(bench: _Bench, ratio: Floats, fitted: _FittedValues) -> dict[str, Estimate]:
    """All methods and the mean cumulative ratio, each with its interval."""
    test, index = bench.test, bench.index
    log = (test.padded(test.reward), test.padded(ratio, 1.0), test.mask)
    values = {"q_taken": test.padded(fitted.q_taken), "v": test.padded(fitted.v)}
    gamma = bench.config.gamma
    every = np.arange(len(test))[None]
    estimates = {}
    for name, method in {**_METHODS, "mean_rho": estimators.mean_cumulative_ratio}.items():
        value = bootstrap(method, *log, gamma=gamma, index=every, **values)[0]
        resampled = bootstrap(method, *log, gamma=gamma, index=index, **values)
        estimates[name] = _estimate(float(value), resampled, bench)
    return estimates


def _estimate(value: float, resampled: Floats, bench: _Bench) -> Estimate:
    confidence = bench.config.confidence
    low, high, lost = percentile_interval(resampled, confidence)
    below, above, _ = percentile_interval(resampled - bench.clinician_resampled, confidence)
    difference = value - bench.clinician_return
    return Estimate(value, low, high, difference, below, above, lost)


def _fit_on_train(bench: _Bench, on_train: Floats, target: Floats) -> _FittedValues:
    q = bench.design.fit(on_train, gamma=bench.config.gamma)
    q_taken, v, outside = _apply(q, bench.test, target, bench.logged)
    return _FittedValues(q_taken, v, outside, "training split")


def _cross_fit(bench: _Bench, target: Floats) -> _FittedValues:
    """Each test stay's Q from the other folds; the agent need not be asked about other stays."""
    from sklearn.model_selection import GroupKFold  # scikit-learn takes a second to import

    test, subjects = bench.test, bench.test.stays.subject_id
    folds = min(_Q_FOLDS, len(np.unique(subjects)))
    if folds < 2:
        raise SupportError("cross-fitting Q needs the test stays of two patients or more")
    q_taken, v, outside = np.zeros(len(target)), np.zeros(len(target)), 0.0
    for fit, held_out in GroupKFold(folds).split(subjects, groups=subjects):
        fit_rows, rows = (np.isin(test.stay_of_row, stays) for stays in (fit, held_out))
        design = FQEDesign(test.select(fit), bench.config.fqe)
        q = design.fit(target[fit_rows], gamma=bench.config.gamma)
        part = test.select(held_out)
        q_taken[rows], v[rows], share = _apply(q, part, target[rows], bench.logged[rows])
        outside += share * float(part.n_decisions.sum() / test.n_decisions.sum())
    return _FittedValues(q_taken, v, outside, f"{folds} patient-grouped folds of the test split")


def _apply(
    q: LinearQ, log: Trajectories, target: Floats, logged: Floats
) -> tuple[Floats, Floats, float]:
    """[R] q of the logged action, [R] v, and the share of both that rewards do not permit."""
    values = q.values(log.observations())
    q_taken, v = (values * logged).sum(1), (values * target).sum(1)
    read = np.concatenate([q_taken[log.is_decision], v[log.is_decision]])
    return q_taken, v, q.outside_share(read)
