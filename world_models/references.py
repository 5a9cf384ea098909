"""What a world model has to beat first: no change at all, and linear models."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from sepsis_gym.features import N_FEATURES
from sepsis_gym.patients import Patients
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.trajectories import Trajectories
from world_models.forecast import Floats
from world_models.inputs import Z_INPUTS, step_inputs


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
        """Solves for the stays' decisions; needs torch, as what a world model starts from does."""
        import torch

        from world_models.network import MORTALITY, VENTILATION
        from world_models.sequences import Sequences
        from world_models.straight import fit_straight

        stays = Sequences.of(train, "cpu")
        fitted = fit_straight(stays, torch.ones(1, len(stays)), by_tube=False)
        outputs = [*range(N_FEATURES), VENTILATION.start, MORTALITY.start]
        weight, intercept = (array[0][:, outputs].numpy() for array in fitted)
        rows = np.flatnonzero(train.is_decision)
        doses = train.fluid_ml[rows], train.norepinephrine_equivalent[rows]
        inputs = step_inputs(train.patients(rows), *doses, train.preprocessing)
        after = train.preprocessing.standardize(train.values[rows + 1])
        expected = (inputs @ weight + intercept)[:, :N_FEATURES]
        error = after - inputs[:, Z_INPUTS] - expected
        measured = train.measured[rows + 1]
        squares = np.where(measured, error**2, 0).sum(0) / np.maximum(measured.sum(0), 1)
        return cls(train.preprocessing, weight, intercept[0], np.sqrt(squares))

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
