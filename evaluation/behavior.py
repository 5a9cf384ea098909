"""The behavior policy: how likely clinicians were to choose each action, fitted and checked.

A wrong behavior policy is the main danger of off-policy evaluation, and a good likelihood does not
rule it out. :func:`check_behavior` therefore also asks whether the mean cumulative ratio of another
clinician model stays near 1 at every step.
"""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation.estimators import Floats, weight_diagnostics
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.errors import ConfigError, SupportError
from sepsis_gym.trajectories import Trajectories

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

_CALIBRATION_BINS = 10


@dataclass(frozen=True)
class BehaviorConfig:
    """How the behavior policy is fitted.

    Attributes:
        inverse_penalties: Candidate inverse L2 penalties, rising; the held-out likelihood chooses.
        folds: Patient-grouped folds for that choice.
        smoothing: Share of the action marginal mixed into every prediction, so that none is 0.
        max_iterations: L-BFGS steps per fit.
    """

    inverse_penalties: tuple[float, ...] = (0.0001, 0.001, 0.01, 0.1, 1.0)
    folds: int = 3
    smoothing: float = 0.01
    max_iterations: int = 100

    def __post_init__(self) -> None:
        """Checks the ranges."""
        rising = list(self.inverse_penalties) == sorted(set(self.inverse_penalties))
        if not self.inverse_penalties or not rising or self.inverse_penalties[0] <= 0:
            raise ConfigError(
                f"inverse_penalties must rise and be positive, got {self.inverse_penalties}"
            )
        if self.folds < 2 or self.max_iterations < 1:
            raise ConfigError("folds must be at least 2 and max_iterations at least 1")
        if not 0 < self.smoothing < 1:
            raise ConfigError(f"smoothing must lie between 0 and 1, got {self.smoothing}")


@dataclass(frozen=True)
class BehaviorPolicy:
    """Multinomial logistic regression of the logged action, mixed with the action marginal.

    Attributes:
        mean: [107] observation mean of the training rows.
        scale: [107] observation spread, 1 where constant.
        model: The regression, None where one action was seen only.
        marginal: [25] action frequencies with one count added to each, never 0.
        smoothing: Share of the marginal.
        inverse_penalty: Chosen inverse L2 penalty.
        converged: Whether the final fit reached its tolerance.
    """

    mean: Floats
    scale: Floats
    model: "LogisticRegression | None"
    marginal: Floats
    smoothing: float
    inverse_penalty: float
    converged: bool

    def probabilities(self, observations: NDArray[np.floating]) -> Floats:
        """[n, 25] probability of each action, positive everywhere, of observations [n, 107]."""
        fitted = np.tile(self.marginal, (len(observations), 1))
        if self.model is not None:
            fitted[:] = 0.0
            fitted[:, self.model.classes_] = self.model.predict_proba(
                (observations - self.mean) / self.scale
            )
        return (1 - self.smoothing) * fitted + self.smoothing * self.marginal


@dataclass(frozen=True)
class BehaviorReport:
    """How good the behavior policy is on stays it has not seen.

    Attributes:
        log_likelihood: Mean log-probability of the logged actions.
        marginal_log_likelihood: The same under the action marginal alone, to compare with.
        accuracy: Share of states whose most likely action is the logged one.
        calibration_error: Expected calibration error of that top probability, 10 equal bins.
        action_frequency: [25] how often each action was logged.
        action_predicted: [25] how often the policy expects it.
        mean_rho_per_step: [T] mean cumulative ratio of another clinician model; near 1 if right.
        inverse_penalty: Chosen inverse L2 penalty.
        converged: Whether the fit reached its tolerance.
    """

    log_likelihood: float
    marginal_log_likelihood: float
    accuracy: float
    calibration_error: float
    action_frequency: tuple[float, ...]
    action_predicted: tuple[float, ...]
    mean_rho_per_step: tuple[float, ...]
    inverse_penalty: float
    converged: bool


def fit_behavior_policy(
    trajectories: Trajectories, config: BehaviorConfig | None = None
) -> BehaviorPolicy:
    """Fits the behavior policy; pass stays that will not be evaluated.

    Args:
        trajectories: The training split.
        config: Settings.

    Raises:
        SupportError: Fewer than two patients, so that no penalty can be chosen.
    """
    from sklearn.model_selection import GroupKFold  # scikit-learn takes a second to import

    settings = config or BehaviorConfig()
    decision = trajectories.is_decision
    observations = trajectories.observations()[decision].astype(np.float64)
    actions = trajectories.action[decision]
    subjects = trajectories.stays.subject_id[trajectories.stay_of_row[decision]]
    folds = min(settings.folds, len(np.unique(subjects)))
    if folds < 2:
        raise SupportError("the behavior policy needs the stays of two patients or more")
    likelihood = np.zeros(len(settings.inverse_penalties))
    for fit, held_out in GroupKFold(folds).split(observations, groups=subjects):
        path = _fit_path(observations[fit], actions[fit], settings.inverse_penalties, settings)
        for index, policy in enumerate(path):
            taken = policy.probabilities(observations[held_out])
            likelihood[index] += np.log(taken[np.arange(len(held_out)), actions[held_out]]).sum()
    chosen = settings.inverse_penalties[: int(likelihood.argmax()) + 1]
    return _fit_path(observations, actions, chosen, settings)[-1]


def _fit_path(
    observations: Floats,
    actions: NDArray[np.int64],
    inverse_penalties: tuple[float, ...],
    config: BehaviorConfig,
) -> list[BehaviorPolicy]:
    """One policy per penalty, each fit starting from the more strongly penalised one."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, scale = observations.mean(0), observations.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    marginal = np.bincount(actions, minlength=N_ACTIONS) + 1.0
    path: list[BehaviorPolicy] = []
    start: tuple[Floats, Floats] | None = None
    for inverse_penalty in inverse_penalties:
        model = None
        if len(np.unique(actions)) > 1:
            model = LogisticRegression(
                C=inverse_penalty, max_iter=config.max_iterations, tol=1e-4, warm_start=True
            )
            if start is not None:
                model.coef_, model.intercept_ = start
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # reported as `converged`
                model.fit((observations - mean) / scale, actions)
            start = model.coef_.copy(), model.intercept_.copy()
        path.append(
            BehaviorPolicy(
                mean=mean,
                scale=scale,
                model=model,
                marginal=marginal / marginal.sum(),
                smoothing=config.smoothing,
                inverse_penalty=inverse_penalty,
                converged=model is None or int(np.max(model.n_iter_)) < config.max_iterations,
            )
        )
    return path


def check_behavior(
    policy: BehaviorPolicy, other: BehaviorPolicy, held_out: Trajectories
) -> BehaviorReport:
    """Checks a behavior policy on held-out stays.

    Args:
        policy: What is checked.
        other: Another clinician model, fitted on other or fewer stays: the target whose mean
            cumulative ratio must stay near 1.
        held_out: Stays that neither has seen.
    """
    rows = held_out.is_decision
    observations, actions = held_out.observations()[rows], held_out.action[rows]
    predicted = policy.probabilities(observations)
    at = np.arange(len(actions))
    taken, top = predicted[at, actions], predicted.max(1)
    correct = predicted.argmax(1) == actions
    in_bin = np.minimum((top * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    gap = np.bincount(in_bin, weights=correct - top, minlength=_CALIBRATION_BINS)
    ratio = np.ones(len(rows))
    ratio[rows] = other.probabilities(observations)[at, actions] / taken
    return BehaviorReport(
        log_likelihood=float(np.log(taken).mean()),
        marginal_log_likelihood=float(np.log(policy.marginal[actions]).mean()),
        accuracy=float(correct.mean()),
        calibration_error=float(np.abs(gap).sum() / len(actions)),
        action_frequency=tuple((np.bincount(actions, minlength=N_ACTIONS) / len(at)).tolist()),
        action_predicted=tuple(predicted.mean(0).tolist()),
        mean_rho_per_step=weight_diagnostics(
            held_out.padded(ratio), held_out.mask
        ).mean_rho_per_step,
        inverse_penalty=policy.inverse_penalty,
        converged=policy.converged,
    )
