"""Titration as the Surviving Sepsis Campaign 2021 guideline has it, on the 25 actions."""

from dataclasses import asdict, dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from agents.policy import AgentRecord, BatchPolicy, one_hot
from sepsis_gym.actions import N_LEVELS, decode_action, encode_action
from sepsis_gym.errors import ConfigError
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.patients import OBSERVATION_SLICES
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.trajectories import Trajectories


@dataclass(frozen=True)
class GuidelineConfig:
    """Thresholds; the numbers of the guideline are Evans et al. 2021, Crit Care Med 49:e1063.

    Attributes:
        map_target_mmhg: Pressure to reach (recommendation 9).
        map_severe_mmhg: Below it norepinephrine rises by two levels at once; our choice, since the
            next look is a whole step away.
        map_wean_mmhg: Above it norepinephrine falls by a level; our choice, at the upper end of
            what patients reach whose target is 65-70 mmHg (Asfar et al. 2014, NEJM 370:1583).
        resuscitation_ml_kg: Crystalloid for hypoperfusion at first (recommendation 5).
        lactate_shock_mmol_l: That is hypoperfusion, as is a pressure below target (Levy et al.
            2018, Crit Care Med 46:997, the hour-1 bundle).
        lactate_high_mmol_l: Fluid goes on while lactate is above it (recommendation 7).
        bolus_ml: So much each step; our choice.
        fio2_most: No more fluid from this on, fraction: a stand-in for the dynamic measures of
            recommendation 6, which no observation holds; our choice.
        weight_kg: Of everybody, since no observation holds it.
    """

    map_target_mmhg: float = 65.0
    map_severe_mmhg: float = 55.0
    map_wean_mmhg: float = 75.0
    resuscitation_ml_kg: float = 30.0
    lactate_shock_mmol_l: float = 4.0
    lactate_high_mmol_l: float = 2.0
    bolus_ml: float = 500.0
    fio2_most: float = 0.6
    weight_kg: float = 80.0

    def __post_init__(self) -> None:
        """Checks the order of the pressures and that doses are doses."""
        if not 0 < self.map_severe_mmhg < self.map_target_mmhg < self.map_wean_mmhg:
            raise ConfigError("map_severe_mmhg, map_target_mmhg, map_wean_mmhg must rise from 0")
        if min(self.resuscitation_ml_kg, self.bolus_ml, self.weight_kg) <= 0:
            raise ConfigError("resuscitation_ml_kg, bolus_ml and weight_kg must be positive")


class GuidelineAgent(BatchPolicy):
    """Fluid for hypoperfusion, norepinephrine to a pressure, less of it once the target is passed.

    A function of the observation alone, which it reads in clinical units; doses become the levels
    they fall into on the cohort's own grid. Values that are not known are shown as medians, which
    call for nothing.

    Attributes:
        seeded: Every seed gives the same agent.
    """

    config_type: ClassVar[type] = GuidelineConfig
    seeded: ClassVar[bool] = False

    def __init__(self, preprocessing: Preprocessing, config: GuidelineConfig | None = None) -> None:
        """Takes the scales and dose levels of the observations it will see."""
        super().__init__()
        self.preprocessing = self._scales = preprocessing
        self.config = config or GuidelineConfig()

    @classmethod
    def train(cls, trajectories: Trajectories, config: GuidelineConfig, *, seed: int = 0) -> Self:
        """Learns nothing but scales and dose levels."""
        return cls(trajectories.preprocessing, config)

    def batch_probabilities(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        """One-hot action probabilities [n, 25] of observations [n, 107]."""
        return one_hot(self.choose(observations))

    def choose(self, observations: NDArray[np.float32]) -> NDArray[np.int64]:
        """The actions [n]."""
        at, limits = OBSERVATION_SLICES, self.config
        values = self._scales.restore(observations[:, at["features"]])
        pressure, lactate, fio2 = (
            values[:, FEATURE_INDEX[name]] for name in ("meanbp", "lactate", "fio2")
        )
        given, level = decode_action(observations[:, at["previous_action"]].argmax(1))
        low = pressure < limits.map_target_mmhg
        severe, passed = pressure < limits.map_severe_mmhg, pressure > limits.map_wean_mmhg
        change = low.astype(np.int64) + severe - passed
        vasopressor = np.clip(level + change, 0, N_LEVELS - 1)
        bins = self._scales.action_bins
        at_first = observations[:, at["time"]][:, 0] == 0
        whole = limits.resuscitation_ml_kg * limits.weight_kg
        rest = np.maximum(whole - np.asarray(bins.fluid_doses)[given], 0)
        shock = low | (lactate >= limits.lactate_shock_mmol_l)
        going_on = low | (lactate > limits.lactate_high_mmol_l)
        fluid_ml = np.where(at_first & shock, rest, np.where(going_on, limits.bolus_ml, 0.0))
        fluid_ml[fio2 >= limits.fio2_most] = 0
        return encode_action(bins.fluid_level(fluid_ml), vasopressor)

    def to_record(self) -> AgentRecord:
        """What is stored."""
        return AgentRecord(asdict(self.config), self._scales)

    @classmethod
    def from_record(cls, record: AgentRecord) -> Self:
        """The agent that was stored.

        Raises:
            ConfigError: The record does not describe such an agent.
        """
        if record.preprocessing is None:
            raise ConfigError("preprocessing is missing")
        return cls(record.preprocessing, GuidelineConfig(**record.config))
