"""What is asked of everything that forecasts logged stays, so that one score serves all."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.errors import ConfigError
from sepsis_gym.patients import Patients
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.trajectories import Trajectories

Floats = NDArray[np.floating]
OPEN_LOOP_STEPS = 12


class Forecaster(Protocol):
    """A model that walks logged stays: the world model, and what it is measured against."""

    @property
    def preprocessing(self) -> Preprocessing:
        """The scales that its predictions are in."""
        ...

    @property
    def runs_on_memory(self) -> bool:
        """Whether it runs on from what was read last; else from what it expects, as if read."""
        ...

    def predict(
        self, patients: Patients, fluid_ml: Floats, norepinephrine_equivalent: Floats
    ) -> dict[str, Any]:
        """What to expect of the step of n patients, by names of :class:`Predictions`.

        ``mean`` is a must; what a forecaster does not say is left out.
        """
        ...

    def follow(self, patients: Patients, following: Patients) -> Patients:
        """Carries the memory over a step, see ``TransitionModel.follow``."""
        ...


@dataclass(frozen=True)
class Predictions:
    """What is expected of the D decisions of some stays; NaN where a forecaster does not say.

    Attributes:
        mean: [D, 39] the next values, z units, given all that was logged before.
        open_loop: [D, 39] the same, given the first state and the logged doses only; NaN from the
            13th decision on.
        scale: [D, 39] standard deviation around ``mean``.
        ventilated: [D] probability of ventilation in the step.
        end: [D, 3] probability that the stay goes on, ends by discharge, by death.
        mortality_90d: [D] probability of death within 90 days.
        epistemic: [D] disagreement of an ensemble, mean z units.
    """

    mean: Floats
    open_loop: Floats
    scale: Floats
    ventilated: Floats
    end: Floats
    mortality_90d: Floats
    epistemic: Floats

    @classmethod
    def of(cls, n: int, said: dict[str, Any]) -> "Predictions":
        """Fills in what is not said of n decisions; names of no attribute are left out."""
        wide, flat = np.full((n, 1), np.nan), np.full(n, np.nan)
        silent = {"scale": wide, "ventilated": flat, "end": np.full((n, 3), np.nan)}
        silent |= {"mortality_90d": flat, "epistemic": flat}
        names = (*silent, "mean", "open_loop")
        return cls(**(silent | {name: said[name] for name in names if name in said}))


def in_scales_of(log: Trajectories, preprocessing: Preprocessing) -> Trajectories:
    """The stays as a model with these scales would have met them.

    What is not known is shown as the model's fill value, and actions fall into its dose levels.

    Args:
        log: Any cohort's stays.
        preprocessing: The model's.

    Raises:
        ConfigError: The clocks or the alignments differ.
    """
    own = log.preprocessing
    if own == preprocessing:
        return log
    for name in ("step_hours", "alignment"):
        if (theirs := getattr(own, name)) != (ours := getattr(preprocessing, name)):
            raise ConfigError(f"the cohort's {name} is {theirs}, the world model's {ours}")
    fill = np.array(preprocessing.fill, np.float32)
    doses = np.nan_to_num(log.fluid_ml), np.nan_to_num(log.norepinephrine_equivalent)
    action = preprocessing.action_bins.action(*doses)
    return replace(
        log,
        values=np.where(own.known(log.age), log.values, fill),
        action=np.where(log.is_decision, action, -1).astype(np.int64),
        manifest=replace(log.manifest, preprocessing=preprocessing),
    )
