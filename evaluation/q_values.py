"""Q of a target policy at the evaluated stays, each stay's from fits that left its fold out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.estimators import Floats
from evaluation.fqe import FQEConfig, FQEDesign, action_basis
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.errors import SupportError
from sepsis_gym.trajectories import Trajectories


@dataclass(frozen=True)
class QValues:
    """What the estimators need of Q, at every row of the evaluated stays.

    Attributes:
        q_taken: [R] Q of the logged action, 0 in final states.
        v: [R] expectation of Q over the target's actions.
        resampled: [B] mean of v over the first states, with Q fitted again in each resample.
        outside_share: Share of ``q_taken`` and ``v`` that no sequence of rewards permits.
        source: Stays that Q was fitted on.
    """

    q_taken: Floats
    v: Floats
    resampled: Floats
    outside_share: float
    source: str


def patient_folds(subjects: NDArray[np.integer], folds: int) -> NDArray[np.int64]:
    """[N] fold of each stay, from 0; all stays of a patient share one.

    Raises:
        SupportError: The stays are those of one patient.
    """
    from sklearn.model_selection import GroupKFold  # scikit-learn takes a second to import

    used = min(folds, len(np.unique(subjects)))
    if used < 2:
        raise SupportError("cross-fitting Q needs the test stays of two patients or more")
    fold = np.zeros(len(subjects), np.int64)
    for number, (_, held_out) in enumerate(GroupKFold(used).split(subjects, groups=subjects)):
        fold[held_out] = number
    return fold


class CrossFit:
    """Cross-fitted Q of any number of targets; the regressions' designs are built once."""

    def __init__(
        self,
        log: Trajectories,
        besides: int,
        counts: Floats,
        config: FQEConfig,
        *,
        gamma: float,
        folds: int,
        rng: np.random.Generator,
    ) -> None:
        """Builds the designs.

        Args:
            log: Stays; the evaluated ones come last.
            besides: How many stays come before them, on which every Q is fitted as well.
            counts: [B, N] how often each resample holds each evaluated stay; Q is fitted again in
                each, with the stays before them resampled as well.
            config: How Q is fitted.
            gamma: Discount per step.
            folds: How many; fewer if there are fewer patients.
            rng: Resamples the stays before the evaluated ones.

        Raises:
            SupportError: The evaluated stays are those of one patient.
        """
        self._evaluated, self._counts = log.select(np.arange(besides, len(log))), counts
        fold = patient_folds(self._evaluated.stays.subject_id, folds)
        self._fold_of_row = fold[self._evaluated.stay_of_row]
        self.source = f"other patients, {int(fold.max()) + 1} folds of the evaluated stays"
        if besides:
            drawn = rng.multinomial(besides, np.full(besides, 1 / besides), len(counts))
            counts = np.concatenate([drawn, counts], axis=1)
            fold = np.concatenate([np.full(besides, -1), fold])
            self.source += " and the training split"
        self._design = FQEDesign(log, config, gamma=gamma, folds=fold, counts=counts)
        self.source += f", ridge {self._design.ridge:g}"

    def __call__(self, target: Floats) -> QValues:
        """Q of a target, given by its [R, 25] probabilities at every row of the log."""
        evaluated, design = self._evaluated, self._design
        fits = design.fit_all(target)
        target = target[len(target) - len(evaluated.is_decision) :]
        decision, observations = evaluated.is_decision, evaluated.observations()
        logged = np.where(decision[:, None], np.eye(N_ACTIONS)[evaluated.action], 0.0)
        q_taken, v = np.zeros(len(target)), np.zeros(len(target))
        for fold, weights in enumerate(fits[:, 0]):
            rows = self._fold_of_row == fold
            values = design.q(weights).values(observations[rows])
            q_taken[rows], v[rows] = (values * logged[rows]).sum(1), (values * target[rows]).sum(1)
        outside = design.q(fits[0, 0]).outside_share(
            np.concatenate([q_taken[decision], v[decision]])
        )
        return QValues(q_taken, v, self._start_values(fits[:, 1:], target), outside, self.source)

    def _start_values(self, fits: Floats, target: Floats) -> Floats:
        """[B] mean v of the first states in each resample, from [fits, B, 178] weights."""
        first = self._evaluated.offsets[:-1]
        features = self._design.features(
            self._evaluated.observations()[first], target[first] @ action_basis()
        )
        total = np.zeros(len(self._counts))
        for fold, weights in enumerate(fits):
            inside = self._fold_of_row[first] == fold
            total += ((self._counts[:, inside] @ features[inside]) * weights).sum(1)
        return total / self._counts.sum(1)
