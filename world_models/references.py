"""What a world model has to beat first: no change at all, and linear models."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from sepsis_gym.features import N_FEATURES
from sepsis_gym.patients import Patients
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.trajectories import Trajectories
from world_models.forecast import Floats
from world_models.inputs import Z_INPUTS, step_inputs

_PENALTY = 0.01  # of the ridge, as where the world model's straight path starts from
_INVERSE_PENALTY = 0.1  # of the logistic regressions


@dataclass(frozen=True)
class Persistence:
    """Everything stays as it is shown now.

    Attributes:
        preprocessing: The scales of its predictions.
    """

    preprocessing: Preprocessing
    runs_on_memory = False

    def predict(
        self, patients: Patients, fluid_ml: Floats, norepinephrine_equivalent: Floats
    ) -> dict[str, Any]:
        """The present values and ventilation, whatever is given."""
        return {
            "mean": self.preprocessing.standardize(patients.values),
            "ventilated": patients.ventilated.astype(np.float32),
        }

    def follow(self, patients: Patients, following: Patients) -> Patients:
        """Remembers nothing."""
        return following


@dataclass(frozen=True)
class LinearModel:
    """Ridge regression of the changes, logistic regression of ventilation and death.

    Attributes:
        preprocessing: The scales of its inputs and predictions.
        weight: [133, 41] of 39 changes (z units), ventilation and 90-day mortality (log odds).
        intercept: [41].
        scale: [39] standard deviation of what the ridge leaves over, z units.
    """

    preprocessing: Preprocessing
    weight: Floats
    intercept: Floats
    scale: Floats
    runs_on_memory = False

    @classmethod
    def fit(cls, train: Trajectories) -> Self:
        """Solves for the stays' decisions; needs torch, whose ridge the world model starts from."""
        import torch

        from world_models.sequences import Sequences, ridge_changes

        stays = Sequences.of(train, "cpu")
        ridge = ridge_changes(stays, torch.ones(1, len(stays)), _PENALTY)
        changes, intercepts = (array[0].numpy() for array in ridge)
        rows = np.flatnonzero(train.is_decision)
        doses = train.fluid_ml[rows], train.norepinephrine_equivalent[rows]
        inputs = step_inputs(train.patients(rows), *doses, train.preprocessing)
        died = train.stays.died_90d[train.stay_of_row[rows]]
        chances = [_logistic(inputs, seen) for seen in (train.ventilated[rows + 1], died)]
        after = train.preprocessing.standardize(train.values[rows + 1])
        error = after - inputs[:, Z_INPUTS] - inputs @ changes - intercepts[0]
        measured = train.measured[rows + 1]
        squares = np.where(measured, error**2, 0).sum(0) / np.maximum(measured.sum(0), 1)
        return cls(
            preprocessing=train.preprocessing,
            weight=np.column_stack([changes, *(weight for weight, _ in chances)]),
            intercept=np.append(intercepts[0], [intercept for _, intercept in chances]),
            scale=np.sqrt(squares),
        )

    def predict(
        self, patients: Patients, fluid_ml: Floats, norepinephrine_equivalent: Floats
    ) -> dict[str, Any]:
        """Values, their spread, ventilation and 90-day mortality."""
        inputs = step_inputs(patients, fluid_ml, norepinephrine_equivalent, self.preprocessing)
        outputs = inputs @ self.weight + self.intercept
        chance = 1 / (1 + np.exp(-outputs[:, N_FEATURES:]))
        return {
            "mean": inputs[:, Z_INPUTS] + outputs[:, :N_FEATURES],
            "scale": np.broadcast_to(self.scale, (len(patients), N_FEATURES)),
            "ventilated": chance[:, 0],
            "mortality_90d": chance[:, 1],
        }

    def follow(self, patients: Patients, following: Patients) -> Patients:
        """Remembers nothing."""
        return following


def _logistic(inputs: Floats, seen: NDArray[np.bool_]) -> tuple[Floats, float]:
    """[133] weights and intercept; the mere rate where there is one class only."""
    if len(np.unique(seen)) < 2:
        return np.zeros(inputs.shape[1]), 20.0 if seen.all() else -20.0
    fitted = LogisticRegression(C=_INVERSE_PENALTY, max_iter=500).fit(inputs, seen)
    return fitted.coef_[0], float(fitted.intercept_[0])
