"""What a policy is worth by the validation split: fast, for choosing among stages of a training."""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from evaluation.fqe import FQEConfig
from evaluation.q_values import CrossFit
from sepsis_gym.agent import BatchAgent
from sepsis_gym.trajectories import Trajectories


def validation_value(
    trajectories: Trajectories, *, gamma: float, folds: int = 5
) -> Callable[[BatchAgent], float]:
    """Fitted Q evaluation on the validation split, each stay by a Q of the other folds' patients.

    Q is linear, so that a policy costs one solution of its equations. It needs no behavior policy
    and extrapolates where the log is silent: it can choose a stage of a training, and says nothing
    of what the chosen one is worth. No test stay is read.

    Args:
        trajectories: The whole cohort.
        gamma: Discount per step.
        folds: How many.

    Returns:
        Mean value over the first states, of any agent that can be asked in batches.

    Raises:
        UnknownNameError: The cohort has no validation split.
    """
    log = trajectories.split("validation")

    @cache
    def prepared() -> tuple[CrossFit, NDArray[np.float32]]:
        none = np.zeros((0, len(log)))
        rng = np.random.default_rng(0)  # draws nothing without resamples
        fit = CrossFit(log, 0, none, FQEConfig(), gamma=gamma, folds=folds, rng=rng)
        return fit, log.observations()

    def value(agent: BatchAgent) -> float:
        fit, observations = prepared()
        target = np.asarray(agent.batch_probabilities(observations), np.float64)
        return float(fit(target).v[log.offsets[:-1]].mean())

    return value
