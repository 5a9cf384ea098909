"""How the errors of a world model go together.

The network says how far off each feature may be, not that blood pressures err together. Noise drawn
feature by feature would make patients whose diastolic pressure is above the mean.
"""

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.trajectories import Trajectories
from world_models.logged import one_step
from world_models.model import ClinicalWorldModel

_SHRINKAGE_ROWS = 20.0
_LEAST_EIGENVALUE = 1e-3
_SCALE_LIMITS = (0.3, 2.0)


def fit_noise(model: ClinicalWorldModel, trajectories: Trajectories) -> NDArray[np.float32]:
    """Fits the factor that turns independent noise into noise like the model's own errors.

    Args:
        model: A model with independent noise.
        trajectories: Stays it was not trained on.

    Returns:
        [39, 39] factor: its rows are as long as the errors are wide, in predicted scales, and go
        together as the errors of values measured in one step do.
    """
    rows = np.flatnonzero(trajectories.is_decision)
    expected = one_step(model, trajectories)
    target = model.preprocessing.standardize(trajectories.values[rows + 1])
    measured = trajectories.measured[rows + 1].astype(np.float64)
    error = measured * (target - expected["mean"]) / expected["scale"]
    squares = (error**2).sum(0) + _SHRINKAGE_ROWS
    size = np.clip(np.sqrt(squares / (measured.sum(0) + _SHRINKAGE_ROWS)), *_SCALE_LIMITS)
    both = measured.T @ measured
    power = (error**2).T @ measured
    correlation = error.T @ error / np.sqrt(np.maximum(power * power.T, 1e-9))
    correlation *= both / (both + _SHRINKAGE_ROWS)
    np.fill_diagonal(correlation, 1.0)
    # pairwise estimates need not fit together: the nearest matrix that does
    eigenvalues, vectors = np.linalg.eigh(correlation)
    fitted = (vectors * np.maximum(eigenvalues, _LEAST_EIGENVALUE)) @ vectors.T
    unit = np.sqrt(np.diag(fitted))
    factor = np.linalg.cholesky(fitted / (unit[:, None] * unit))
    return (size[:, None] * factor).astype(np.float32)
