"""How clinicians dose: by the chart, by habit, and by what no chart shows.

The behaviour policy of logged data. It reads the monitor, the last lactate, the hour's urine and
oxygen (whether or not they get into the record) and one cue that is recorded nowhere: the bedside
impression of shock and severity, which is what confounds real data.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from sepsis_gym.actions import N_ACTIONS, N_LEVELS, ActionBins
from sepsis_gym.errors import ConfigError
from world_models.physiology.batch import Batch, Column, relu, sigmoid
from world_models.physiology.body import Body
from world_models.physiology.people import People

ACTION_HOURS = 4
"""An action of the 25 lasts so long; the doses of ``ActionBins`` are fluid per so many hours."""


@dataclass
class Style(Batch):
    """Habits of the clinician at each bed.

    Attributes:
        target: Mean arterial pressure aimed at, mmHg.
        liberal: Fondness of fluid, standard normal.
        briskness: Gain of the titration.
        cap: Highest dose, ug/kg/min.
        carrier: Factor of carrier and maintenance fluid.
        sparing: Gives hardly any carrier fluid.
        maintenance: Runs a maintenance fluid.
    """

    target: Column
    liberal: Column
    briskness: Column
    cap: Column
    carrier: Column
    sparing: Column
    maintenance: Column


USUAL_TARGET = 65.5
"""Mean arterial pressure that clinicians aim at, mmHg."""


def draw_style(people: People, rng: np.random.Generator) -> Style:
    """A clinician for every patient."""
    n = len(people)

    def normal() -> Column:
        return rng.standard_normal(n, np.float32)

    habit = rng.random(n, np.float32)
    return Style(
        target=USUAL_TARGET + 4.2 * normal() + 1.5 * people.hypertension,
        liberal=normal(),
        briskness=np.clip(0.50 + 0.20 * normal(), 0.12, 0.95),
        cap=1.6 * np.maximum(0.95 * np.exp(0.35 * normal()), 0.2),
        carrier=np.clip(np.exp(0.95 * normal()), 0.15, 3.2),
        sparing=(habit < 0.30).astype(np.float32),
        maintenance=(habit > 0.58).astype(np.float32),
    )


_WITHHOLDING, _NOTHING = 0.6, 0.7
"""Shares of unusual clinicians who withhold, and of these who give nothing at all."""


def unusual_habits(style: Style, share: float, rng: np.random.Generator) -> Style:
    """The same clinicians, but for a share who keep unusual habits all through the stay.

    Most of them withhold: they give nothing, or a low dose at most and less fluid, whatever the
    pressure. The others aim at pressures far from the usual, with more or less fluid than is usual.
    So the log shows whole stays of patients left alone and over-treated.

    Args:
        style: n usual clinicians.
        share: Probability of unusual habits.
        rng: A stream of their own.
    """
    n = len(style)
    unusual, withholds = rng.random(n) < share, rng.random(n) < _WITHHOLDING
    little = np.where(rng.random(n) < _NOTHING, 0, rng.random(n))
    target, liberal = rng.uniform(45, 95, n), 2 * rng.standard_normal(n)
    flow = rng.uniform(0.5, 4, n)

    def kept(usual: Column, odd: Column, withheld: Column) -> Column:
        changed = np.where(unusual, np.where(withholds, withheld, odd), usual)
        return np.asarray(changed, np.float32)

    return replace(
        style,
        target=kept(style.target, target, style.target),
        liberal=kept(style.liberal, liberal, np.where(little > 0, -2.0, -12.0)),
        cap=kept(style.cap, style.cap, 0.1 * little),
        carrier=kept(style.carrier, flow * style.carrier, little * style.carrier),
    )


@dataclass
class Chart(Batch):
    """What the clinician reads.

    Attributes:
        pressure: Mean arterial pressure over the last hours, mmHg.
        lactate: Last one reported, mmol/L.
        urine_ml_h: Of the last hour.
        fio2: Inspired oxygen, fraction.
        cue: Bedside impression, recorded nowhere.
    """

    pressure: Column
    lactate: Column
    urine_ml_h: Column
    fio2: Column
    cue: Column


ACTION_HOURS = 4
"""How long an action of the 5 x 5 grid lasts, h."""


@dataclass(frozen=True)
class ClinicianConfig:
    """What makes logged data hard or easy to learn from.

    Attributes:
        decision_interval_hours: How often doses are set, 1, 2 or 4 h; titration within the window
            of an action is what makes its recorded dose endogenous.
        cue_strength: Weight of what no chart shows; 0 takes the main hidden confounder away.
        exploration: Share of 4-h windows with a random one of the 25 actions.
        rct: Whether every action is drawn at random, once per 4 h.
        unusual: Share of clinicians of unusual habits from ICU admission on: odd pressures aimed
            at, or treatment withheld, all through the stay.
    """

    decision_interval_hours: int = 1
    cue_strength: float = 1.0
    exploration: float = 0.0
    rct: bool = False
    unusual: float = 0.0

    def __post_init__(self) -> None:
        """Rejects what no clinician can do."""
        if self.decision_interval_hours not in (1, 2, ACTION_HOURS):
            raise ConfigError(
                f"decision_interval_hours must be 1, 2 or 4, got {self.decision_interval_hours}"
            )
        for name in ("exploration", "unusual"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.cue_strength < float("inf"):
            raise ConfigError(f"cue_strength must be 0 or more, got {self.cue_strength}")


BOLUS_L = np.array([0.25, 0.5, 0.5, 1.0], np.float32)
"""Sizes of equal chance."""


class Decisions:
    """How many uniform and normal draws one decision takes: [6, n] and [2, n], the sixth unused."""

    UNIFORM, NORMAL = 6, 2

    @classmethod
    def draw(cls, n: int, rng: np.random.Generator) -> tuple[Column, Column]:
        """All draws of one decision of n clinicians."""
        return (
            rng.random((cls.UNIFORM, n), np.float32),
            rng.standard_normal((cls.NORMAL, n), np.float32),
        )


def impression(body: Body, people: People, strength: float) -> Column:
    """[n] the cue: hypoperfusion beyond the ordinary, and hidden severity."""
    return np.asarray(strength * (0.9 * (body.debt - 0.25) + 0.45 * people.severity), np.float32)


def start_probability(chart: Chart, style: Style, dose: Column, fluid_l: Column) -> Column:
    """[n] probability that a vasopressor is begun."""
    gap = style.target - 3 - chart.pressure
    logit = -2.2 + 0.16 * gap + 0.45 * relu(fluid_l) - 0.3 * style.liberal
    logit = logit + 1.1 * chart.cue + 1.2 * (chart.pressure < 52)
    return np.where((dose <= 0) & (gap > 0), sigmoid(logit), np.float32(0))


def titration(chart: Chart, style: Style, dose: Column) -> tuple[Column, Column]:
    """[n] each: median of the next dose where one runs, and its log deviation."""
    change = style.briskness * np.clip((style.target + 1 - chart.pressure) / 9, -0.9, 1.3)
    near = np.abs(chart.pressure - style.target - 3) < 4
    moved = dose * np.exp(change + 0.05 * chart.cue)
    return np.where(near, dose, moved), np.where(near, np.float32(0.04), np.float32(0.12))


FIRST_DOSE, FIRST_DOSE_SD = 0.06, 0.5
"""Median, ug/kg/min, and log deviation of the dose that is begun."""
INERTIA = 0.10
"""Share of decisions that leave a running dose as it is."""
SMALLEST_DOSE = 0.025
"""Below it a dose is turned off if the pressure allows, ug/kg/min."""


def _weans(chart: Chart, style: Style) -> NDArray[np.bool_]:
    """[n] whether a dose below the smallest is turned off."""
    return chart.pressure > style.target - 1


def titrate(
    chart: Chart, style: Style, dose: Column, fluid_l: Column, uniform: Column, normal: Column
) -> Column:
    """[n] vasopressor dose of the next hour, ug/kg/min.

    Args:
        chart: What is read.
        style: Who reads it.
        dose: [n] what runs now.
        fluid_l: [n] given so far.
        uniform: [6, n] draws.
        normal: [2, n] draws.
    """
    starts = uniform[0] < start_probability(chart, style, dose, fluid_l)
    median, sd = titration(chart, style, dose)
    new = np.where(uniform[4] < INERTIA, dose, median * np.exp(sd * normal[0]))
    first = FIRST_DOSE * np.exp(FIRST_DOSE_SD * normal[1])
    new = np.where(starts, first, np.where(dose > 0, new, 0))
    off = (new < SMALLEST_DOSE) & _weans(chart, style)
    return np.asarray(np.where(off, 0, np.minimum(new, style.cap)), np.float32)


def bolus_probability(
    chart: Chart, style: Style, people: People, fluid_l: Column, hour: float
) -> Column:
    """[n] probability of a bolus in the next hour."""
    dry = chart.urine_ml_h / people.weight_kg < 0.5
    return sigmoid(
        -2.95
        + 0.085 * np.clip(66 - chart.pressure, -10, 25)
        + 0.20 * np.clip(chart.lactate - 2, 0, 6)
        + 0.60 * dry
        + 0.65 * style.liberal
        + 0.75 * chart.cue
        - 0.030 * np.clip(hour, 0, 60)
        - 0.16 * np.clip(fluid_l - 1, 0, 6)
        - 0.7 * (chart.fio2 > 0.65)
        - 0.35 * people.heart_failure
    )


def carrier_l_h(style: Style, dose: Column, hour: float, uniform: Column) -> Column:
    """[n] carrier and maintenance fluid, L/h."""
    runs = uniform < carrier_probability(style)
    return np.where(runs, carrier_flow_l_h(style, dose > 0, hour), np.float32(0))


def carrier_probability(style: Style) -> Column:
    """[n] probability that any runs."""
    return np.where(style.sparing > 0, np.float32(0.06), np.float32(0.97))


def carrier_flow_l_h(style: Style, dosed: bool | NDArray[np.bool_], hour: float) -> Column:
    """[n] how much runs, L/h, if any."""
    flow = 0.020 + 0.035 * np.asarray(dosed) + 0.05 * style.maintenance * (hour < 40)
    return np.asarray(flow * style.carrier, np.float32)


def prescribe(
    chart: Chart,
    style: Style,
    people: People,
    body: Body,
    hour: float,
    draws: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> tuple[Column, Column, Column]:
    """The next hour of n patients: bolus in L, carrier in L/h, dose in ug/kg/min."""
    uniform, normal = draws
    dose = titrate(chart, style, body.vasopressor, body.fluid_l, uniform, normal)
    gives = uniform[1] < bolus_probability(chart, style, people, body.fluid_l, hour)
    size = BOLUS_L[np.minimum((uniform[2] * 4).astype(int), 3)]
    bolus = np.where(gives, size, np.float32(0))
    return bolus, carrier_l_h(style, dose, hour, uniform[3]), dose


def action_probabilities(
    chart: Chart,
    style: Style,
    people: People,
    body: Body,
    hour: float,
    bins: ActionBins,
    exploration: float = 0.0,
) -> NDArray[np.float64]:
    """[n, 25] probability of each action of clinicians who decide once per 4-h step.

    The true propensities of off-policy evaluation: dose noise is normal on the log scale, boluses
    and carriers are coin flips, so nothing is estimated.

    Args:
        chart: What is read.
        style: Who reads it.
        people: Traits.
        body: Present states.
        hour: Of the decision.
        bins: Dose levels.
        exploration: Share of decisions taken at random among the 25 published actions.

    What comfort care withholds afterwards is not part of it.
    """
    dose = _dose_levels(chart, style, body, bins)
    grid = np.zeros((len(people), N_LEVELS, N_LEVELS))
    for level in range(N_LEVELS):
        fluid = _fluid_levels(chart, style, people, body, hour, bins, dosed=level > 0)
        grid[:, :, level] = fluid * dose[:, level, None]
    flat = grid.reshape(len(people), N_ACTIONS)
    # decisions at random are among the published doses, wherever the levels of ``bins`` lie
    tried = bins.action(*ActionBins().doses(np.arange(N_ACTIONS)))
    share = np.bincount(tried, minlength=N_ACTIONS) / N_ACTIONS
    return (1 - exploration) * flat + exploration * share


def _dose_levels(chart: Chart, style: Style, body: Body, bins: ActionBins) -> NDArray[np.float64]:
    """[n, 5] probability of each vasopressor level."""
    dose = body.vasopressor.astype(np.float64)
    begins = start_probability(chart, style, body.vasopressor, body.fluid_l).astype(np.float64)
    median, sd = titration(chart, style, body.vasopressor)
    running = dose > 0
    middle = np.where(running, median, FIRST_DOSE)
    spread = np.where(running, sd, FIRST_DOSE_SD)
    # A dose lies in level k if it lies above edge k; all above the cap lie at the cap.
    off_below = np.where(_weans(chart, style), SMALLEST_DOSE, 0.0)
    edges = np.array([0.0, *bins.vasopressor_edges])
    floor = np.maximum(edges[:, None], off_below)
    reached = np.where(
        style.cap > edges[:, None],
        norm.sf(np.log(np.maximum(floor, 1e-12) / np.maximum(middle, 1e-12)) / spread),
        0.0,
    )
    kept = np.minimum(dose, style.cap)
    stays = (kept > edges[:, None]) & (kept >= off_below)
    above = np.where(running, INERTIA * stays + (1 - INERTIA) * reached, begins * reached)
    bounds = np.concatenate([np.ones((1, len(dose))), above, np.zeros((1, len(dose)))])
    return (bounds[:-1] - bounds[1:]).T


def _fluid_levels(
    chart: Chart,
    style: Style,
    people: People,
    body: Body,
    hour: float,
    bins: ActionBins,
    *,
    dosed: bool,
) -> NDArray[np.float64]:
    """[n, 5] probability of each fluid level, given whether a vasopressor runs."""
    gives = bolus_probability(chart, style, people, body.fluid_l, hour).astype(np.float64)
    runs = carrier_probability(style).astype(np.float64)
    flow = 1000 * ACTION_HOURS * carrier_flow_l_h(style, dosed, hour)
    levels = np.zeros((len(people), N_LEVELS))
    sizes = [(0.0, 1 - gives), *((1000 * size, gives / len(BOLUS_L)) for size in BOLUS_L)]
    for carrier, of_carrier in ((0 * flow, 1 - runs), (flow, runs)):
        for bolus, of_bolus in sizes:
            action = bins.action(carrier + bolus, np.zeros(len(people)))
            levels[np.arange(len(people)), action // N_LEVELS] += of_carrier * of_bolus
    return levels
