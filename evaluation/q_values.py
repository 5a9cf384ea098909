"""Q of a target policy at the evaluated stays, fitted on other stays than those it is read at."""

from dataclasses import dataclass

import numpy as np

from evaluation.estimators import Floats
from evaluation.fqe import FQEConfig, FQEDesign, LinearQ
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.errors import SupportError
from sepsis_gym.trajectories import Trajectories

_FOLDS = 5


@dataclass(frozen=True)
class QValues:
    """What the doubly robust estimators need of Q, at every row of the evaluated stays.

    Attributes:
        q_taken: [R] Q of the logged action, 0 in final states.
        v: [R] expectation of Q over the target's actions.
        outside_share: Share of both that no sequence of rewards permits.
        source: Stays that Q was fitted on.
    """

    q_taken: Floats
    v: Floats
    outside_share: float
    source: str


def q_from_train(
    design: FQEDesign, on_train: Floats, test: Trajectories, on_test: Floats, *, gamma: float
) -> QValues:
    """Q fitted on the training split.

    Args:
        design: Of the training split.
        on_train: [R_train, 25] probabilities of the target there.
        test: Evaluated stays.
        on_test: [R, 25] probabilities of the target there.
        gamma: Discount per step.
    """
    q_taken, v, outside = _read(design.fit(on_train, gamma=gamma), test, on_test)
    return QValues(q_taken, v, outside, "training split")


def cross_fitted_q(
    test: Trajectories, on_test: Floats, config: FQEConfig, *, gamma: float
) -> QValues:
    """Each stay's Q from the other folds; the agent need not be asked about other stays.

    Args:
        test: Evaluated stays.
        on_test: [R, 25] probabilities of the target there.
        config: How Q is fitted.
        gamma: Discount per step.

    Raises:
        SupportError: The stays are those of one patient.
    """
    from sklearn.model_selection import GroupKFold  # scikit-learn takes a second to import

    subjects = test.stays.subject_id
    folds = min(_FOLDS, len(np.unique(subjects)))
    if folds < 2:
        raise SupportError("cross-fitting Q needs the test stays of two patients or more")
    q_taken, v, outside = np.zeros(len(on_test)), np.zeros(len(on_test)), 0.0
    for fit, held_out in GroupKFold(folds).split(subjects, groups=subjects):
        fit_rows, rows = (np.isin(test.stay_of_row, stays) for stays in (fit, held_out))
        q = FQEDesign(test.select(fit), config).fit(on_test[fit_rows], gamma=gamma)
        part = test.select(held_out)
        q_taken[rows], v[rows], share = _read(q, part, on_test[rows])
        outside += share * float(part.n_decisions.sum() / test.n_decisions.sum())
    return QValues(q_taken, v, outside, f"{folds} patient-grouped folds of the test split")


def _read(q: LinearQ, log: Trajectories, target: Floats) -> tuple[Floats, Floats, float]:
    """[R] q of the logged action, [R] v, and the share of both that rewards do not permit."""
    decision = log.is_decision
    values = q.values(log.observations())
    logged = np.where(decision[:, None], np.eye(N_ACTIONS)[log.action], 0.0)
    q_taken, v = (values * logged).sum(1), (values * target).sum(1)
    return q_taken, v, q.outside_share(np.concatenate([q_taken[decision], v[decision]]))
