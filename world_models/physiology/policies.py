"""Policies to judge the model by: fixed doses, a guideline, trial arms, an oracle."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.actions import N_ACTIONS, ActionBins
from sepsis_gym.errors import ConfigError
from sepsis_gym.features import N_FEATURES
from sepsis_gym.sofa import sofa_components
from world_models.physiology.batch import Column
from world_models.physiology.bedside import truth
from world_models.physiology.body import Body, advance, late_risk
from world_models.physiology.clinician import ACTION_HOURS, USUAL_TARGET, Decisions, prescribe
from world_models.physiology.courses import Policy, Ward
from world_models.physiology.people import People

Goal = Literal["pressure", "lactate", "sofa"]
Fluid = Literal["usual", "liberal", "restrictive"]
Choice = Callable[[Ward, int, np.random.Generator], NDArray[np.integer]]
"""(ward, hour, policy stream) to the action of each patient."""


def held(choose: Choice, bins: ActionBins | None = None) -> Policy:
    """Actions of the 25, chosen anew every ``ACTION_HOURS`` and held meanwhile.

    Args:
        choose: Chooses them.
        bins: Doses of the actions.
    """
    drips, doses = _rates(bins)
    holding: dict[str, Column] = {}

    def policy(ward: Ward, hour: int, rng: np.random.Generator) -> tuple[Column, Column, Column]:
        if hour % ACTION_HOURS == 0 or not holding:
            action = choose(ward, hour, rng)
            holding.update(drip=drips[action], dose=doses[action])
        return np.zeros(len(ward.people), np.float32), holding["drip"], holding["dose"]

    return policy


def _rates(bins: ActionBins | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """[25] drip in L/h and [25] dose in ug/kg/min of the actions."""
    fluid_ml, dose = (bins or ActionBins()).doses(np.arange(N_ACTIONS))
    return (fluid_ml / 1000 / ACTION_HOURS).astype(np.float32), dose.astype(np.float32)


def fixed(action: int, bins: ActionBins | None = None) -> Policy:
    """One of the 25 actions, as long as it lasts."""
    return held(lambda ward, hour, rng: np.full(len(ward.people), action), bins)


def at_random(bins: ActionBins | None = None) -> Policy:
    """A random action every 4 h."""
    return held(lambda ward, hour, rng: rng.integers(N_ACTIONS, size=len(ward.people)), bins)


def guideline(target: float = 65.0) -> Policy:
    """Titrates to a pressure; boluses while short of perfusion, up to 30 mL/kg, then less."""

    def policy(ward: Ward, hour: int, rng: np.random.Generator) -> tuple[Column, Column, Column]:
        chart, body, kg = ward.chart(0.0), ward.body, ward.people.weight_kg
        dose, given = body.vasopressor, body.fluid_l
        low = chart.pressure < target
        starts = low & ((given > 1.5) | (chart.pressure < target - 7) | (dose > 0))
        up = np.exp(0.35 * np.clip((target + 2 - chart.pressure) / 8, 0, 1.6))
        new = np.where(starts, np.where(dose > 0, dose * up, 0.06), dose)
        new = np.where((chart.pressure > target + 7) & (dose > 0), new * 0.86, new)
        new = np.where((new < 0.02) & (chart.pressure > target), 0, np.minimum(new, 0.9))
        short = low | (chart.lactate > 3.5) | (chart.urine_ml_h / kg < 0.4)
        bolus = np.where(short & (given < 0.030 * kg) & (chart.fio2 < 0.6), 0.5, 0.0)
        late = low & (new > 0.25) & (given < 0.045 * kg) & (chart.fio2 < 0.5)
        bolus = np.where(late, np.maximum(bolus, 0.25), bolus)
        carrier = np.full(len(dose), 0.02, np.float32)
        return bolus.astype(np.float32), carrier, new.astype(np.float32)

    return policy


def trial_arm(*, target: float | None = None, fluid: Fluid = "usual") -> Policy:
    """Clinicians told to aim at a pressure, or to give fluid ``liberal``ly or ``restrictive``ly.

    The instruction for fluid holds for 24 h, as in CLOVERS; that for a pressure all the time.

    Raises:
        ConfigError: ``fluid`` is no arm.
    """
    if fluid not in get_args(Fluid):
        raise ConfigError(f"fluid must be one of {', '.join(get_args(Fluid))}, got {fluid!r}")

    def policy(ward: Ward, hour: int, rng: np.random.Generator) -> tuple[Column, Column, Column]:
        uniform, normal = Decisions.draw(len(ward.people), rng)
        style = ward.style
        if target is not None:
            aimed = np.full(len(ward.people), target, np.float32)
            style = replace(style, target=aimed + 0.3 * (style.target - USUAL_TARGET))
        chart = ward.chart(1.0)
        bolus, carrier, dose = prescribe(
            chart, style, ward.people, ward.body, hour, (uniform, normal)
        )
        if fluid != "usual" and hour < 24:
            asked = (chart.pressure < 65) | (chart.lactate > 2.5) | (ward.body.vasopressor > 0.15)
            if fluid == "liberal":
                size = 1.0 if hour < 1 else 0.5
                gives = asked & (uniform[1] < (1.0 if hour < 1 else 0.25)) & (chart.fio2 < 0.8)
                bolus = np.maximum(bolus, np.where(gives, size, 0)).astype(np.float32)
            else:
                rescue = (chart.pressure < 50) & (uniform[1] < 0.15)
                bolus = np.where(rescue, np.float32(0.25), np.float32(0))
        return bolus, carrier, dose

    return policy


def oracle(hours: int = 8, bins: ActionBins | None = None) -> Policy:
    """Greedy look-ahead on the true dynamics: the action of least expected 90-day death.

    Args:
        hours: How far it looks, the action held for the first 4 h, and then a quarter of its fluid.
        bins: Doses.
    """
    rates = _rates(bins)

    def choose(ward: Ward, hour: int, rng: np.random.Generator) -> NDArray[np.integer]:
        return lookahead(ward.body, ward.people, hour, rates, hours).argmin(axis=1)

    return held(choose, bins)


def lookahead(
    body: Body,
    people: People,
    hour: float,
    rates: tuple[NDArray[np.float32], NDArray[np.float32]],
    hours: int,
    dt: float = 0.5,
) -> NDArray[np.float32]:
    """[n, k] expected 90-day death if each of k actions were begun now, [k] drips and doses."""
    n, k = len(people), len(rates[0])
    every = np.repeat(np.arange(n), k)
    imagined, same = body.take(every), people.take(every)
    imagined.cumulative_hazard = np.zeros(n * k, np.float32)
    drip, dose = np.tile(rates[0], n), np.tile(rates[1], n)
    for step in range(int(hours / dt)):
        share = np.float32(1.0 if step * dt < ACTION_HOURS else 0.25)
        advance(imagined, same, hour + step * dt, drip * share, dose, dt)
    alive = np.exp(-imagined.cumulative_hazard)
    return (1 - alive * (1 - late_risk(imagined, same))).reshape(n, k)


def best_by(goal: Goal, bins: ActionBins | None = None) -> Policy:
    """Greedy look-ahead of 4 h for a surrogate: highest pressure, lowest lactate, lowest SOFA.

    Raises:
        ConfigError: ``goal`` is none of them.
    """
    if goal not in get_args(Goal):
        raise ConfigError(f"goal must be one of {', '.join(get_args(Goal))}, got {goal!r}")
    drips, doses = _rates(bins)

    def choose(ward: Ward, hour: int, rng: np.random.Generator) -> NDArray[np.integer]:
        n = len(ward.people)
        every = np.repeat(np.arange(n), N_ACTIONS)
        imagined, same = ward.body.take(every), ward.people.take(every)
        drip, dose = np.tile(drips, n), np.tile(doses, n)
        for step in range(2 * ACTION_HOURS):
            advance(imagined, same, hour + step * 0.5, drip, dose, 0.5)
        return _score(goal, imagined, same, dose).reshape(n, N_ACTIONS).argmin(axis=1)

    return held(choose, bins)


def _score(goal: Goal, body: Body, people: People, dose: Column) -> Column:
    """[n] what is made smallest."""
    if goal == "pressure":
        return -body.pressure
    if goal == "lactate":
        return body.lactate
    shown = truth(body, people, np.zeros((len(people), N_FEATURES), np.float32))
    points = sofa_components(
        pao2_fio2=body.oxygenation,
        ventilated=body.ventilated > 0,
        platelet=shown["platelet"],
        bilirubin_total=shown["bilirubin_total"],
        meanbp=shown["meanbp"],
        norepinephrine=dose,
        gcs=15.0,
        creatinine=shown["creatinine"],
        urine_24h=6 * shown["output_4hourly"],
    )
    # ties by how far the organs are from the next point
    return points.sum(-1) + 0.01 * body.lactate


def withheld(policy: Policy) -> Policy:
    """The same policy without its vasopressor."""

    def without(ward: Ward, hour: int, rng: np.random.Generator) -> tuple[Column, Column, Column]:
        bolus, carrier, dose = policy(ward, hour, rng)
        return bolus, carrier, np.zeros_like(dose)

    return without
