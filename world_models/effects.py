"""Effects of treatment: what a step would bring under one pair of doses instead of another.

A model may predict levels well and rank treatments backwards, since logged doses answer to the
patient. Effects are learned and judged apart from levels. Where they come from: from the truth, in
synthetic patients (:mod:`world_models.physiology.effects`); from pharmacology, as a prior for
logged stays (:func:`prior_effects`).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.features import N_FEATURES
from sepsis_gym.trajectories import Trajectories
from world_models.inputs import PRESSURES, usual_rise

_Floats = NDArray[np.float32]
_LEAST_SCALE = 0.05
_NO_FLUID, _NO_VASOPRESSOR = 0.35, 0.4
_FLUID_ML_4H, _VASOPRESSOR = (50.0, 2500.0), (0.02, 1.0)


class Doses(NamedTuple):
    """Treatments, one per decision or patient.

    Attributes:
        fluid_ml: [D] fluid, mL per step.
        norepinephrine_equivalent: [D] vasopressor, ug/kg/min.
    """

    fluid_ml: _Floats
    norepinephrine_equivalent: _Floats


@dataclass(frozen=True)
class Effects:
    """What two treatments would do in the step after each of D decisions.

    Attributes:
        first: The one treatment.
        second: The other.
        change: [D, 39] second minus first, z units; NaN where nothing is claimed.
        died: [D, 2] probability of death in the step under each; NaN where nothing is claimed.
        risk: [D] of death within 90 days, second minus first; NaN where nothing is claimed.
        scale: [D, 39] how large an error counts as one, z units: the usual effect of what differs.
    """

    first: Doses
    second: Doses
    change: _Floats
    died: _Floats
    risk: _Floats
    scale: _Floats


def draw_doses(n: int, step_hours: int, rng: np.random.Generator) -> tuple[Doses, Doses]:
    """Draws n pairs of treatments: a third differ in fluid only, a third in vasopressor only."""

    def amounts(nothing: float, limits: tuple[float, float]) -> _Floats:
        drawn = np.exp(rng.uniform(np.log(limits[0]), np.log(limits[1]), (2, n)))
        return np.where(rng.random((2, n)) < nothing, 0, drawn).astype(np.float32)

    fluid, vasopressor = amounts(_NO_FLUID, _FLUID_ML_4H), amounts(_NO_VASOPRESSOR, _VASOPRESSOR)
    fluid *= step_hours / 4
    kind = rng.integers(3, size=n)
    fluid[1] = np.where(kind == 1, fluid[0], fluid[1])
    vasopressor[1] = np.where(kind == 0, vasopressor[0], vasopressor[1])
    return Doses(fluid[0], vasopressor[0]), Doses(fluid[1], vasopressor[1])


def no_effects(log: Trajectories) -> Effects:
    """Nothing is claimed."""
    n = int(log.is_decision.sum())
    nothing = Doses(np.zeros(n, np.float32), np.zeros(n, np.float32))
    unknown = np.full((n, N_FEATURES), np.nan, np.float32)
    return _of_values(nothing, nothing, unknown)


def prior_effects(log: Trajectories, seed: int = 0) -> Effects:
    """What pharmacology leads one to expect of a random pair of treatments at every decision.

    Nothing is claimed but blood pressures: what a dose does to urine, laboratory values and risk is
    left to the log. In every patient the dose-response is the average one; who responds better
    than others is the log's to tell.

    Source: see :func:`expected_pressure`.
    """
    rows = np.flatnonzero(log.is_decision)
    first, second = draw_doses(
        len(rows), log.preprocessing.step_hours, np.random.default_rng([seed, 4])
    )
    patients = log.patients(rows)
    values = np.repeat(patients.values[None], 2, 0)
    for one, doses in enumerate((first, second)):
        per_4h = 4 / log.preprocessing.step_hours
        values[one][:, PRESSURES] = expected_pressure(
            patients.values[:, PRESSURES],
            patients.previous_norepinephrine_equivalent[:, None],
            doses.fluid_ml[:, None] * per_4h,
            doses.norepinephrine_equivalent[:, None],
        )
    z = log.preprocessing.standardize(values)
    known = log.preprocessing.known(patients.age)[:, PRESSURES]
    change = np.full(z.shape[1:], np.nan, np.float32)
    change[:, PRESSURES] = np.where(known, (z[1] - z[0])[:, PRESSURES], np.nan)
    return _of_values(first, second, change)


def _of_values(first: Doses, second: Doses, change: _Floats) -> Effects:
    """Nothing is claimed of deaths."""
    died = np.full((len(change), 2), np.nan, np.float32)
    size = usual_size(first, second, change)
    return Effects(first, second, change, died, died[:, 0], size)


def expected_pressure(
    pressure: NDArray[np.floating],
    dose_now: NDArray[np.floating],
    fluid_ml: NDArray[np.floating],
    dose: NDArray[np.floating],
) -> NDArray[np.floating]:
    """Blood pressure after 4 h of a treatment, all else equal, mmHg.

    The vasopressor raises it as in :func:`world_models.inputs.usual_rise`. Fluid adds
    4 (1 - exp(-mL / 1000)) mmHg, 1.6 for 500 mL: most of a bolus' effect is gone after 90 minutes.

    Args:
        pressure: [...] present pressure, mmHg.
        dose_now: [...] vasopressor that it was measured under, ug/kg/min.
        fluid_ml: [...] fluid to give, mL per 4 h.
        dose: [...] vasopressor to give, ug/kg/min.

    Source: decay of a bolus as in Nunes et al. 2014; the shape is an assumption.
    """
    return pressure * (1 + usual_rise(dose_now, dose)) + 4 * (1 - np.exp(-fluid_ml / 1000))


def usual_size(first: Doses, second: Doses, change: _Floats) -> _Floats:
    """[D, 39] root mean square effect over the decisions whose pairs differ in the same drugs."""
    kind = 2 * (first.fluid_ml != second.fluid_ml) + (
        first.norepinephrine_equivalent != second.norepinephrine_equivalent
    )
    size = np.ones_like(change)
    for one in np.unique(kind):
        mine, claimed = change[kind == one], ~np.isnan(change[kind == one])
        power = np.nan_to_num(mine**2).sum(0) / np.maximum(claimed.sum(0), 1)
        size[kind == one] = np.sqrt(power + _LEAST_SCALE**2)
    return size
