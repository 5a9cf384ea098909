"""What an environment needs from a model of patients: the contract between the packages."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.patients import Patients
from sepsis_gym.preprocessing import Preprocessing


class End(IntEnum):
    """Why a stay is over, if it is."""

    ONGOING = 0
    DISCHARGED = 1
    DIED = 2
    HORIZON = 3
    LEFT_SUPPORT = 4


@dataclass(frozen=True)
class Transition:
    """What one step did to n patients.

    Attributes:
        patients: The patients one step later (also those whose stay has just ended).
        end: [n] :class:`End` codes; ``HORIZON`` and ``LEFT_SUPPORT`` are the environment's to set,
            never the model's.
        mortality_90d: [n] predicted probability of death within 90 days of those who survive the
            step, given whether they were discharged in it.
        epistemic: [n] disagreement of the ensemble about the step, in mean z-score units.
        scored: [n, 2] SOFA before and after the step, each from what is known in both states; None
            where the model leaves that to the reward.
    """

    patients: Patients
    end: NDArray[np.int8]
    mortality_90d: NDArray[np.float32]
    epistemic: NDArray[np.float32]
    scored: NDArray[np.int8] | None = None


@dataclass(frozen=True)
class Simulation:
    """What-if predictions for k treatments, from one present state or from one each.

    Attributes:
        fluid_ml: [k] the fluid asked about, mL per step.
        norepinephrine_equivalent: [k] the vasopressor dose asked about, ug/kg/min.
        values: [k, 39] predicted features after the step, clinical units.
        spread: [k, 2, 39] 5% and 95% bounds of the prediction, clinical units.
        ventilated: [k] probability of invasive ventilation.
        sofa: [k] SOFA of the predicted state.
        died: [k] probability of death in the step.
        discharged: [k] probability of ICU discharge in the step.
        mortality_90d: [k] probability of death within 90 days, in the step or after it.
        epistemic: [k] disagreement of the ensemble, in mean z-score units.
    """

    fluid_ml: NDArray[np.float32]
    norepinephrine_equivalent: NDArray[np.float32]
    values: NDArray[np.float32]
    spread: NDArray[np.float32]
    ventilated: NDArray[np.float32]
    sofa: NDArray[np.int8]
    died: NDArray[np.float32]
    discharged: NDArray[np.float32]
    mortality_90d: NDArray[np.float32]
    epistemic: NDArray[np.float32]


@runtime_checkable
class TransitionModel(Protocol):
    """Action-conditioned dynamics of patients; all randomness comes from the generator given."""

    @property
    def preprocessing(self) -> Preprocessing:
        """Clock, scales and dose levels the model was fitted with."""
        ...

    def start(self, n: int, rng: np.random.Generator) -> Patients:
        """Draws n patients at step 0."""
        ...

    def step(
        self,
        patients: Patients,
        fluid_ml: NDArray[np.floating],
        norepinephrine_equivalent: NDArray[np.floating],
        rng: np.random.Generator,
    ) -> Transition:
        """Moves the n patients one step on under their [n] doses."""
        ...

    def simulate(
        self,
        patients: Patients,
        fluid_ml: NDArray[np.floating],
        norepinephrine_equivalent: NDArray[np.floating],
    ) -> Simulation:
        """Predicts the step of one patient under each of k doses, or of k under one dose each.

        Nothing is drawn. Patients without a memory are taken as they are shown.
        """
        ...

    def follow(self, patients: Patients, following: Patients) -> Patients:
        """Carries the memory over an observed, not simulated, step.

        Args:
            patients: The patients before the step.
            following: The same patients after it; their ``previous_*`` doses are those given in
                the step, their memory is ignored.

        Returns:
            ``following`` with the memory filled in.
        """
        ...


class Simulator(Protocol):
    """What agents that ask "what if" are handed: every environment of the project is one."""

    def simulate(self, actions: NDArray[np.integer]) -> Simulation:
        """Predicts the next step under each action, leaving state and random stream untouched."""
        ...


Choose = Callable[[Patients], NDArray[np.integer]]
"""The actions [n] for n patients who are at the same step."""


@dataclass(frozen=True)
class Treated:
    """What became of n simulated patients, as the record of a cohort would tell it.

    Attributes:
        reward: [n, T] of each recorded decision; whether who lives on is alive at day 90 is paid in
            expectation.
        mask: [n, T] True while there were decisions; none for who was gone before a cohort counts.
        present: [n] reached the first state.
        mortality_90d: [n] death by day 90: 1 if within the record, else its probability.
        hypotensive_hours: [n] after the first state, with a true mean arterial pressure below 65.
        hours: [n] in the ICU after the first state.
    """

    reward: NDArray[np.float64]
    mask: NDArray[np.bool_]
    present: NDArray[np.bool_]
    mortality_90d: NDArray[np.float64]
    hypotensive_hours: NDArray[np.float64]
    hours: NDArray[np.float64]


class Ward(Protocol):
    """Simulated patients whom anybody may treat from their first state on, each time anew."""

    def __call__(self, n: int, seed: int, choose: Choose | None = None) -> Treated:
        """Treats n patients; one seed gives the same patients and luck, whoever chooses.

        Args:
            n: How many.
            seed: Of everything but the choices.
            choose: Chooses at every state; the clinicians of the cohort do if not given.
        """
        ...
