"""The behavior policy: how likely clinicians were to choose each action; fitted, chosen, checked.

Importance sampling divides by these probabilities once per decision and multiplies the quotients
over a stay, so a small error in a rare choice becomes a large one in a weight, and a good
likelihood does not rule that out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from evaluation.calibration import (
    Reliability,
    at,
    calibration,
    calibration_error,
    rare_error,
    reliability,
)
from evaluation.clinician_models import FAMILIES, READS_THE_PAST, Decisions, Predictor
from evaluation.estimators import Floats, weight_diagnostics
from evaluation.propensities import Propensities
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.errors import ConfigError, SupportError
from sepsis_gym.trajectories import Trajectories

POOL, KNOWN = "pool", "known"
_POOL_ROUNDS = 200


@dataclass(frozen=True)
class BehaviorConfig:
    """How the behavior policy is fitted.

    Attributes:
        candidates: Families to choose from; two or more that read one observation, because each is
            judged by the ratios of the others. Their pool is always a candidate too.
        folds: Patient-grouped folds of the training split for calibration and choice.
        smoothing: Share of the action marginal mixed into every prediction, so that none is 0.
        likelihood_slack: Nats per decision by which a candidate may fall behind the most likely
            one; a judgement.
    """

    candidates: tuple[str, ...] = tuple(FAMILIES)
    folds: int = 3
    smoothing: float = 0.01
    likelihood_slack: float = 0.25

    def __post_init__(self) -> None:
        """Checks names and ranges."""
        unknown = set(self.candidates) - set(FAMILIES)
        if unknown or len(set(self.candidates) - READS_THE_PAST) < 2:
            raise ConfigError(
                f"candidates must be among {', '.join(FAMILIES)}, with two or more that read one "
                f"observation, got {self.candidates}"
            )
        if self.folds < 2 or self.likelihood_slack < 0:
            raise ConfigError("folds must be 2 or more and likelihood_slack 0 or more")
        if not 0 < self.smoothing < 1:
            raise ConfigError(f"smoothing must lie between 0 and 1, got {self.smoothing}")


@dataclass(frozen=True)
class BehaviorPolicy:
    """A calibrated model of the logged actions.

    Attributes:
        name: Candidate it is.
        marginal: [25] action frequencies with one count added to each, never 0.
        predict: The model.
    """

    name: str
    marginal: Floats
    predict: Predictor

    def probabilities(self, log: Trajectories) -> Floats:
        """[R, 25] probability of each action at each row of a log; the marginal in final states."""
        found = np.tile(self.marginal, (len(log.is_decision), 1))
        found[log.is_decision] = self.predict(Decisions.of(log))
        return found


@dataclass(frozen=True)
class CandidateReport:
    """How good a candidate is on training stays that it was not fitted on.

    Attributes:
        name: Family, ``pool`` or ``known``.
        log_likelihood: Mean log-probability of the logged actions.
        calibration_error: Expected calibration error of the most likely action, 10 equal bins.
        rare_error: Choices of a probability below 5%: summed distance between logged and expected
            numbers over the bins of the reliability curve, as a share of the expected number.
        mean_rho: By the name of another candidate that reads one observation: its mean whole-stay
            ratio over this one, 1 if this one is right.
    """

    name: str
    log_likelihood: float
    calibration_error: float
    rare_error: float
    mean_rho: dict[str, float]

    @property
    def weight_error(self) -> float:
        """Root mean square of log ``mean_rho``."""
        return float(np.sqrt(np.mean(np.log(list(self.mean_rho.values())) ** 2)))


@dataclass(frozen=True)
class BehaviorReport:
    """How good the behavior policy is on the evaluated stays, and what it was chosen from.

    Attributes:
        name: What was chosen; ``known`` where the true probabilities are used.
        reason: Why.
        candidates: All of them, on the training split.
        log_likelihood: Mean log-probability of the logged actions.
        marginal_log_likelihood: The same under the action marginal alone, to compare with.
        accuracy: Share of states whose most likely action is the logged one.
        calibration_error: See :class:`CandidateReport`.
        rare_error: See there.
        reliability: Bins of predicted probability, rising, empty ones left out.
        action_frequency: [25] how often each action was logged.
        action_predicted: [25] how often the policy expects it.
        other: Candidate that serves as another clinician model.
        mean_rho_per_step: [T] its mean cumulative ratio; near 1 if the policy is right.
        impossible: Logged actions of known probability 0, whose ratio counts as 1.
    """

    name: str
    reason: str
    candidates: tuple[CandidateReport, ...]
    log_likelihood: float
    marginal_log_likelihood: float
    accuracy: float
    calibration_error: float
    rare_error: float
    reliability: tuple[Reliability, ...]
    action_frequency: tuple[float, ...]
    action_predicted: tuple[float, ...]
    other: str
    mean_rho_per_step: tuple[float, ...]
    impossible: int = 0

    @property
    def targets(self) -> tuple[str, ...]:
        """Whose ratios the candidates were judged by."""
        return tuple(dict.fromkeys(name for each in self.candidates for name in each.mean_rho))

    @property
    def doubtful_rho(self) -> float:
        """What the trust gate reads: known probabilities are not in doubt, whatever the overlap."""
        return 1.0 if self.name == KNOWN else self.mean_rho_per_step[-1]


@dataclass(frozen=True)
class BehaviorFit:
    """The fitted behavior policy, and what it was chosen from.

    Attributes:
        policy: The chosen candidate.
        other: Another clinician model: the logistic regression if it was not chosen itself.
        candidates: All that were judged.
        reason: Why this one.
        known: The true probabilities, if they are to be used instead.
    """

    policy: BehaviorPolicy
    other: BehaviorPolicy
    candidates: tuple[CandidateReport, ...]
    reason: str
    known: Propensities | None = None

    def taken(self, log: Trajectories) -> Floats:
        """[R] probability of each logged action; NaN in final states and where it is unknown."""
        rows, found = log.is_decision, np.full(len(log.is_decision), np.nan)
        chance, impossible = self.on(log)
        taken = at(chance, log.action[rows])
        found[rows] = np.where(impossible, np.nan, taken)
        return found

    def on(self, log: Trajectories) -> tuple[Floats, NDArray[np.bool_]]:
        """[n, 25] of a log's decisions, and [n] which logged actions were nobody's choice."""
        if self.known is not None:
            return self.known.of(log)
        chance = self.policy.predict(Decisions.of(log))
        return chance, np.zeros(len(chance), np.bool_)


def fit_behavior_policy(
    trajectories: Trajectories,
    config: BehaviorConfig | None = None,
    known: Propensities | None = None,
    *,
    seed: int = 0,
) -> BehaviorFit:
    """Fits all candidates, calibrates them and chooses one; pass stays that are not evaluated.

    Each candidate predicts every stay from a fit without the stay's patient. Those predictions
    calibrate it (a temperature and a shift per action), weigh the pool (the mixture of the
    candidates that read one observation, by expectation maximisation of the likelihood) and judge:

    1. A candidate more than ``likelihood_slack`` behind the best likelihood is out.
    2. Of the rest the one with the least sum of two relative errors of weights is chosen: the root
       mean square of log mean rho, with every other candidate that reads one observation as the
       target, and the error of rare choices. Both are near 0 for the true behavior policy. An
       overconfident model has mean rho above 1 for whichever target, a flat one below 1. A second
       fit of the same family would share its error and see nothing.

    The pool has an advantage: with a share w in it no target gets a ratio above 1 / w in a step.
    That is what keeps weights small on other stays too, but its own mean rho says less.

    Args:
        trajectories: The training split.
        config: Settings.
        known: True probabilities, to use instead and to be judged beside the candidates.
        seed: Of the fits.

    Raises:
        SupportError: Fewer than two patients.
        SourceError: ``known`` does not fit the stays.
    """
    settings = config or BehaviorConfig()
    decisions = Decisions.of(trajectories)
    counts = np.bincount(decisions.action, minlength=N_ACTIONS) + 1.0
    marginal: Floats = counts / counts.sum()
    held_out: dict[str, Floats] = {}
    models: dict[str, Predictor] = {}
    skipped = ""
    for name in tqdm(settings.candidates, "behavior policy", disable=None):
        try:
            held_out[name], models[name] = _calibrated(name, decisions, marginal, settings, seed)
        except ImportError:
            skipped = f"; {name} was skipped, torch is missing"
    targets = {name: each for name, each in held_out.items() if name not in READS_THE_PAST}
    share = _pool_weights(targets, decisions.action)
    held_out[POOL] = _mixture(targets, share)
    models[POOL] = lambda log: _mixture({name: models[name](log) for name in targets}, share)
    nobody = np.zeros(len(decisions.action), np.bool_)
    found = [_judged(name, each, targets, decisions, nobody) for name, each in held_out.items()]
    chosen, reason = _choose(found, settings)
    other = next(name for name in ("logistic", *targets) if name in targets and name != chosen)
    if known is not None:
        chance, nobody = known.of(trajectories)
        found.append(_judged(KNOWN, chance, targets, decisions, nobody))
        reason = f"the clinicians' true probabilities; of those fitted, {chosen}: {reason}"
    return BehaviorFit(
        BehaviorPolicy(chosen, marginal, models[chosen]),
        BehaviorPolicy(other, marginal, models[other]),
        tuple(found),
        reason + skipped,
        known,
    )


def _calibrated(
    name: str, decisions: Decisions, marginal: Floats, config: BehaviorConfig, seed: int
) -> tuple[Floats, Predictor]:
    """Calibrated predictions of stays not fitted on, [n, 25], and the model of all stays."""
    from sklearn.model_selection import GroupKFold  # scikit-learn takes a second to import

    folds = min(config.folds, len(np.unique(decisions.subject)))
    if folds < 2:
        raise SupportError("the behavior policy needs the stays of two patients or more")
    fit, held_out = FAMILIES[name], np.zeros((len(decisions.action), N_ACTIONS))
    split = GroupKFold(folds).split(decisions.action, groups=decisions.subject)
    for inside, outside in split:
        held_out[outside] = fit(decisions.take(inside), seed)(decisions.take(outside))
    calibrate = calibration(held_out, decisions.action, marginal, config.smoothing)
    model = fit(decisions, seed)
    return calibrate(held_out), lambda log: calibrate(model(log))


def _pool_weights(held_out: Mapping[str, Floats], action: NDArray[np.int64]) -> Floats:
    """[K] shares of the mixture that makes the logged actions most likely."""
    taken = np.stack([at(each, action) for each in held_out.values()], axis=1)
    share = np.full(taken.shape[1], 1 / taken.shape[1])
    for _ in range(_POOL_ROUNDS):
        share = (taken * share / (taken @ share)[:, None]).mean(0)
    return share


def _mixture(parts: Mapping[str, Floats], share: Floats) -> Floats:
    return np.tensordot(share, np.stack(list(parts.values())), 1)


def _judged(
    name: str,
    predicted: Floats,
    targets: Mapping[str, Floats],
    decisions: Decisions,
    nobody: NDArray[np.bool_],
) -> CandidateReport:
    """``nobody`` [n]: decisions whose ratio counts as 1."""
    stay = np.unique(decisions.stay, return_inverse=True)[1]
    log_taken = np.log(np.where(nobody, 1.0, at(predicted, decisions.action)))
    mean_rho = {}
    for target, each in targets.items():
        if target != name:
            log_ratio = np.where(nobody, 0.0, np.log(at(each, decisions.action)) - log_taken)
            mean_rho[target] = float(np.exp(np.bincount(stay, weights=log_ratio)).mean())
    return CandidateReport(
        name,
        float(log_taken[~nobody].mean()),
        calibration_error(predicted, decisions.action),
        rare_error(reliability(predicted, decisions.action)),
        mean_rho,
    )


def _choose(candidates: list[CandidateReport], config: BehaviorConfig) -> tuple[str, str]:
    """The rule of :func:`fit_behavior_policy`."""
    best = max(each.log_likelihood for each in candidates)
    within = [each for each in candidates if each.log_likelihood >= best - config.likelihood_slack]
    chosen = min(within, key=lambda each: each.weight_error + each.rare_error)
    return chosen.name, (
        f"least error of weights ({chosen.weight_error:.2f}) and of rare choices "
        f"({chosen.rare_error:.2f}) among {', '.join(each.name for each in within)}, which are "
        f"within {config.likelihood_slack:g} nats of the best likelihood"
    )


def check_behavior(fit: BehaviorFit, held_out: Trajectories) -> BehaviorReport:
    """Checks what :func:`fit_behavior_policy` chose on stays that it has not seen.

    Raises:
        SourceError: The known probabilities do not fit the stays.
    """
    rows = held_out.is_decision
    action = held_out.action[rows]
    predicted, impossible = fit.on(held_out)
    taken = fit.taken(held_out)
    used = np.isfinite(taken)
    ratio = np.ones(len(rows))
    others = at(fit.other.probabilities(held_out), held_out.action)
    ratio[used] = others[used] / taken[used]
    bins = reliability(predicted, action)
    weights = weight_diagnostics(held_out.padded(ratio), held_out.mask)
    return BehaviorReport(
        name=fit.policy.name if fit.known is None else KNOWN,
        reason=fit.reason,
        candidates=fit.candidates,
        log_likelihood=float(np.log(taken[used]).mean()),
        marginal_log_likelihood=float(np.log(fit.policy.marginal[action]).mean()),
        accuracy=float((predicted.argmax(1) == action).mean()),
        calibration_error=calibration_error(predicted, action),
        rare_error=rare_error(bins),
        reliability=bins,
        action_frequency=tuple((np.bincount(action, minlength=N_ACTIONS) / len(action)).tolist()),
        action_predicted=tuple(predicted.mean(0).tolist()),
        other=fit.other.name,
        mean_rho_per_step=weights.mean_rho_per_step,
        impossible=int(impossible.sum()),
    )
