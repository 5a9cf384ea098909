"""The body of a septic patient: how infection, fluid and vasopressor move it, every 15 minutes.

Slow states and the haemodynamics that follow from them, column by column in :class:`Body`. Time
is in hours from ICU admission, volumes in litres, pressures in mmHg, doses in ug/kg/min
norepinephrine equivalent.
Sources of the effect sizes stand in docs/synthetic.md; the equations are ours.
"""

import math
from dataclasses import dataclass, fields

import numpy as np

from world_models.physiology.batch import Batch, Column, clip, relu, sigmoid
from world_models.physiology.people import People

DT = 0.25
"""Internal step, h: the fluid kinetics (half-life 30 min) forbid a longer one."""

EFFECT_HILL = 1.5
"""Steepness of the norepinephrine effect; above 1 so that weaning bites at low doses."""
VENOUS_RETURN = 1.4
"""Stressed volume that full vasopressor effect recruits from the veins, L."""
BASE_LOG_HAZARD = -9.95
"""Log of the hourly hazard of death where ``illness`` is 0."""
MOST_LOG_HAZARD = 0.18
"""Its limit: 1.2 per hour."""
LATE_RISK, LATE_SLOPE = -3.53, 1.02
"""Log odds of death by day 90 where ``illness`` is 0, and what each unit of it adds."""
OXYGEN_CAPACITY = 13.4
"""mL O2/min by g/dL and L/min: 1.34 mL/g (Huefner) and 10 dL/L, nothing dissolved."""
P50_MMHG, SATURATION_HILL = 26.8, 2.7
"""Oxygen pressure of half saturation and steepness (Hill's equation, normal adult blood)."""


@dataclass
class Body(Batch):
    """States of n patients, each a [n] column.

    Attributes:
        bacteria: Burden, 0-3.
        inflammation: 0-2.5.
        plasma: Plasma volume beyond normal, L.
        interstitium: Interstitial volume beyond normal, L.
        contractility: 1 is normal.
        heart_rate: bpm.
        pressure: Mean arterial pressure, mmHg.
        venous_pressure: Central venous pressure, mmHg.
        output: Cardiac output, L/min.
        stroke_volume: mL.
        lung_water: Extravascular lung water and injury.
        filtration: Glomerular filtration, 1 is normal.
        debt: Rate at which tissue runs short of oxygen, 0-3.
        lactate: mmol/L.
        coagulopathy: Slow injury of coagulation.
        liver: Slow injury of the liver.
        liver_ischaemia: Fast injury of liver cells.
        encephalopathy: Brain dysfunction.
        ischaemia: Cumulative damage by vasopressors and by deep shock.
        creatinine: mg/dL.
        bun: mg/dL.
        platelet: K/uL.
        bilirubin: mg/dL.
        tone_noise: Log resistance that drifts by itself.
        drive_noise: Log inflammatory drive that drifts by itself.
        ventilated: Invasive ventilation.
        fibrillation: Atrial fibrillation.
        fio2: Inspired oxygen, fraction.
        oxygenation: PaO2 / FiO2, mmHg.
        saturation: Arterial oxygen saturation, fraction.
        urine_ml_h: Urine output.
        haemoglobin: g/dL.
        fluid_l: Crystalloid since 12 h before admission, L.
        vasopressor: Dose that runs, ug/kg/min norepinephrine equivalent.
        shock_hours: Hours on vasopressor since the onset, h.
        dialysed: Renal replacement running.
        steroid: Hydrocortisone running.
        diuretic: Loop diuretic acting.
        comfort: Comfort care only.
        hazard: Of death, 1/h.
        cumulative_hazard: Since admission, without what comfort care adds.
    """

    bacteria: Column
    inflammation: Column
    plasma: Column
    interstitium: Column
    contractility: Column
    heart_rate: Column
    pressure: Column
    venous_pressure: Column
    output: Column
    stroke_volume: Column
    lung_water: Column
    filtration: Column
    debt: Column
    lactate: Column
    coagulopathy: Column
    liver: Column
    liver_ischaemia: Column
    encephalopathy: Column
    ischaemia: Column
    creatinine: Column
    bun: Column
    platelet: Column
    bilirubin: Column
    tone_noise: Column
    drive_noise: Column
    ventilated: Column
    fibrillation: Column
    fio2: Column
    oxygenation: Column
    saturation: Column
    urine_ml_h: Column
    haemoglobin: Column
    fluid_l: Column
    vasopressor: Column
    shock_hours: Column
    dialysed: Column
    steroid: Column
    diuretic: Column
    comfort: Column
    hazard: Column
    cumulative_hazard: Column


def infected(people: People, rng: np.random.Generator) -> Body:
    """Bodies at the onset of infection, 12 h before ICU admission."""
    n = len(people)
    columns: dict[str, Column] = {f.name: np.zeros(n, np.float32) for f in fields(Body)}
    bacteria = 0.75 * np.exp(0.35 * rng.standard_normal(n, np.float32))
    failing = people.heart_failure > 0
    columns |= {
        "bacteria": bacteria,
        "inflammation": 0.15 + 0.05 * bacteria,
        "plasma": -0.55 * people.deficit,
        "interstitium": -0.8 * people.deficit,
        "contractility": people.contractility,
        "heart_rate": people.heart_rate + 8,
        "pressure": np.full(n, 82),
        "venous_pressure": np.full(n, 7),
        "output": np.full(n, 5.4),
        "stroke_volume": np.full(n, 65),
        "lung_water": np.where(failing, 0.35, 0.1)
        + 0.05 * np.abs(rng.standard_normal(n, np.float32)),
        "filtration": people.filtration,
        "lactate": np.full(n, 1.2),
        "encephalopathy": np.full(n, 0.05),
        "creatinine": 0.9 * people.creatinine / np.maximum(people.filtration, 0.15) ** 0.9,
        "bun": 16 / np.maximum(people.filtration, 0.2) ** 0.9,
        "platelet": people.platelet,
        "bilirubin": people.bilirubin,
        "ventilated": people.surgical,
        "fio2": np.full(n, 0.3),
        "oxygenation": np.full(n, 380),
        "saturation": np.full(n, 0.97),
        "urine_ml_h": np.full(n, 50),
        "haemoglobin": people.haemoglobin,
    }
    return Body(**{name: np.asarray(column, np.float32) for name, column in columns.items()})


def vasopressor_effect(
    dose: Column, people: People, inflammation: Column, steroid: Column
) -> Column:
    """Share of the largest effect, 0-1; inflammation dulls it, steroids sharpen it."""
    half = people.ed50 * (1 + 0.7 * inflammation) * (1 - 0.15 * steroid)
    ratio = (dose / half) ** EFFECT_HILL
    return ratio / (1 + ratio)


def advance(
    body: Body,
    people: People,
    hour: float | Column,
    fluid_l_h: Column,
    dose: Column,
    dt: float = DT,
) -> None:
    """Moves the bodies on by ``dt`` hours, in place; everything random happens elsewhere.

    Args:
        body: n bodies.
        people: Their traits.
        hour: Time, h from ICU admission; one for all or [n].
        fluid_l_h: [n] crystalloid, L/h.
        dose: [n] vasopressor, ug/kg/min.
        dt: Length of the step, h.
    """
    effect = vasopressor_effect(dose, people, body.inflammation, body.steroid)
    _circulate(body, people, dose, effect, dt)
    congestion = relu(body.venous_pressure - 12.5) / 6
    _move_fluid(body, people, fluid_l_h, dt)
    _breathe(body, people, dt)
    harm = _perfuse(body, people, dose, effect, dt)
    _injure(body, people, dose, harm, congestion, dt)
    _smoulder(body, people, hour, dt)
    log_hazard = (
        BASE_LOG_HAZARD
        + illness(body, people)
        + 2.2 * relu(52 - body.pressure) / 9
        + 4.0 * relu(body.lactate - 6.5) / 4
    )
    body.hazard = np.exp(np.minimum(log_hazard, MOST_LOG_HAZARD))
    body.cumulative_hazard = body.cumulative_hazard + body.hazard * dt
    body.vasopressor = dose
    body.shock_hours = body.shock_hours + (dose > 0) * np.float32(dt)


def _approach(value: Column, target: Column, dt: float, hours: float) -> Column:
    """First-order relaxation towards a target."""
    return value + (target - value) * (1 - math.exp(-dt / hours))


def _circulate(body: Body, people: People, dose: Column, effect: Column, dt: float) -> None:
    """Preload, contractility, tone: pressure and output."""
    tone_loss = people.vasoplegia * body.inflammation / (0.75 + body.inflammation)
    volume = (
        people.stressed_volume
        + body.plasma / people.size
        - 0.40 * tone_loss
        + VENOUS_RETURN * effect
    )
    preload = np.maximum(volume, 0.2) / 1.6
    force = body.contractility * (1 + 0.75 * effect)
    filled = preload**1.7
    stroke = 124 * people.metabolic_size * force * filled / (filled + 0.8 * clip(force, 0.4, 1.2))
    stroke /= 1 + 0.005 * relu(body.pressure - 65) * relu(1.3 - force)  # afterload
    stroke *= 1 - 0.004 * relu(body.heart_rate - 115)  # too little time to fill
    rate = (
        people.heart_rate
        + 15 * body.inflammation**0.8
        + 0.20 * clip(72 - body.pressure, -20, 30)
        + 16 * clip(1 - preload, -0.3, 0.8)
        + 10 * dose / (dose + 0.6)
        + 22 * body.fibrillation
        + 6 * np.minimum(body.debt, 1.5)
    )
    body.heart_rate = _approach(body.heart_rate, clip(rate, 42, 165), dt, 0.6)
    body.output = body.heart_rate * stroke / 1000 * (1 - 0.08 * body.fibrillation)
    body.stroke_volume = stroke
    body.venous_pressure = 3 + 5 * preload * (1 + 1.1 * relu(1 - force))
    baroreflex = 0.004 * clip(80 - body.pressure, -18, 25)
    resistance = (
        people.resistance
        * np.exp(body.tone_noise)
        * (1 - 0.535 * np.minimum(tone_loss, 1.35) * (1 - 0.35 * effect))
        * (1 + people.emax * effect)
        * (1 + baroreflex * (1 - 0.5 * np.minimum(tone_loss, 1)))
    )
    target = body.output * resistance + 0.7 * body.venous_pressure
    body.pressure = _approach(body.pressure, clip(target, 22, 150), dt, 0.2)


def _move_fluid(body: Body, people: People, fluid_l_h: Column, dt: float) -> None:
    """Fluid in, leaked, passed as urine, taken off by dialysis."""
    size = people.size
    leak = people.leak * body.inflammation / (0.7 + body.inflammation)
    flux = (
        1.9
        * (0.7 + 0.6 * body.inflammation)
        * (body.plasma / size + leak - body.interstitium / size / 5.6)
        * size
    )
    driving = body.pressure - body.venous_pressure - (people.threshold - 15)
    fullness = clip(0.45 * body.plasma / size + 0.12 * body.interstitium / size, -1.4, 1.3)
    body.urine_ml_h = (
        80
        * people.urine_factor
        * size
        * np.maximum(body.filtration, 0.01) ** 0.9
        * sigmoid(driving / 5)
        * np.exp(fullness)
        * (1 + 1.6 * body.diuretic)
    )
    taken_off = 0.10 * body.dialysed * (body.interstitium > 1)
    change = fluid_l_h + 0.045 - flux - body.urine_ml_h / 1000 - 0.035 - taken_off
    body.plasma = clip(body.plasma + change * dt, -2.8 * size, 4.5 * size)
    body.interstitium = body.interstitium + flux * dt
    body.fluid_l = body.fluid_l + fluid_l_h * dt
    diluted = 0.045 * clip((body.plasma + 0.12 * body.interstitium) / size, -2, 4)
    body.haemoglobin = people.haemoglobin * (1 - diluted)


def _breathe(body: Body, people: People, dt: float) -> None:
    """Lung water and the oxygen it costs."""
    leaky = 0.06 * people.lung_injury * body.inflammation
    wet = 0.075 * relu(body.venous_pressure - 11.5) / 5 * (
        1 + 0.5 * people.lung_injury * body.inflammation
    ) + 0.040 * relu(body.interstitium / people.size - 1.3) * (0.5 + 0.5 * people.lung_injury)
    body.lung_water = body.lung_water + (leaky + wet - 0.055 * body.lung_water) * dt
    body.oxygenation = clip(
        385
        * np.exp(-0.60 * body.lung_water)
        * (1 - 0.14 * people.copd)
        * (1 + 0.05 * body.ventilated),
        45,
        520,
    )
    need = clip(102 / body.oxygenation, 0.28, 1)
    target = np.where(body.ventilated > 0, np.maximum(1.12 * need, 0.40), need)
    body.fio2 = _approach(body.fio2, np.minimum(target, 1), dt, 2.0)
    bound = (body.oxygenation * body.fio2) ** SATURATION_HILL
    half = np.float32(P50_MMHG**SATURATION_HILL)
    body.saturation = clip(bound / (bound + half), 0.5, 0.995)


def _perfuse(body: Body, people: People, dose: Column, effect: Column, dt: float) -> Column:
    """Oxygen debt and lactate; returns the ischaemia that the vasopressor does."""
    delivery = (
        body.output / people.metabolic_size * body.haemoglobin * OXYGEN_CAPACITY * body.saturation
    )
    short = relu(1 - delivery / (430 * (1 + 0.22 * body.inflammation)))
    hypotension = relu(people.threshold - body.pressure) / 16
    power = dose**1.8
    harm = people.vasopressor_harm * power / (1 + power)
    above = relu(body.pressure - (people.threshold + 23)) / 18
    over_pressure = (0.3 + effect) * np.minimum(dose / 0.05, 1) * above
    target = np.minimum(
        hypotension
        + 1.5 * short
        + 0.28 * harm
        + 0.30 * np.minimum(over_pressure, 1.2)
        + 0.12 * relu(body.interstitium / people.size - 4.5)
        + 0.10 * body.inflammation,
        3,
    )
    body.debt = _approach(body.debt, target, dt, 0.8)
    deep = relu(body.debt - 1.0)  # what long deep shock does stays
    change = 0.025 * harm + 0.55 * deep - 0.02 * body.ischaemia
    body.ischaemia = body.ischaemia + change * dt
    clearance = 0.17 / (1 + 0.6 * np.minimum(body.liver, 2)) * (1 - 0.35 * people.cirrhosis)
    level = 0.95 + 0.42 * body.inflammation + 5.2 * body.debt + 0.6 * dose / (dose + 0.8)
    body.lactate = body.lactate + clearance * (level - body.lactate) * dt
    return harm


def _injure(
    body: Body, people: People, dose: Column, harm: Column, congestion: Column, dt: float
) -> None:
    """What debt, congestion and inflammation do to the organs, and what the blood shows of it."""
    debt, fire = body.debt, body.inflammation
    starved = relu(people.threshold - 7 - (body.pressure - body.venous_pressure)) / 12
    loss = 0.007 * fire + 0.045 * starved + 0.030 * congestion + 0.020 * harm + 0.010 * debt
    change = -body.filtration * loss + 0.010 * (people.filtration - body.filtration)
    body.filtration = clip(body.filtration + change * dt, 0.03, 1.2)
    depressed = 1 - 0.16 * np.minimum(fire, 2) - 0.10 * np.minimum(debt, 1.5)
    change = (people.contractility * depressed - body.contractility) / 10
    body.contractility = clip(body.contractility + change * dt, 0.2, 1.3)
    body.coagulopathy = body.coagulopathy + dt * (
        0.012 * fire + 0.028 * debt - 0.012 * body.coagulopathy
    )
    body.liver = body.liver + dt * (
        0.007 * fire + 0.022 * debt + 0.010 * congestion - 0.010 * body.liver
    )
    body.liver_ischaemia = body.liver_ischaemia + dt * (
        0.16 * relu(debt - 0.25) + 0.05 * congestion - 0.045 * body.liver_ischaemia
    )
    clouded = 0.45 * fire + 0.75 * np.minimum(debt, 1.5) + 1.25 * (1 - body.saturation)
    body.encephalopathy = body.encephalopathy + (clouded - body.encephalopathy) * (dt / 7)
    cleared = 1 - 0.6 * body.dialysed
    target = cleared * people.creatinine * 0.92 / np.maximum(body.filtration, 0.08) ** 0.95
    body.creatinine = body.creatinine + (target - body.creatinine) * (dt / 34)
    target = cleared * people.bun * (1 + 0.25 * fire) / np.maximum(body.filtration, 0.12) ** 0.85
    body.bun = body.bun + (target - body.bun) * (dt / 45)
    target = people.platelet * np.exp(-1.1 * body.coagulopathy)
    body.platelet = body.platelet + (target - body.platelet) * (dt / 22)
    target = people.bilirubin * np.exp(1.5 * body.liver)
    body.bilirubin = body.bilirubin + (target - body.bilirubin) * (dt / 22)


def _smoulder(body: Body, people: People, hour: float | Column, dt: float) -> None:
    """Bacteria grow until the antibiotic works; inflammation follows, kept up by oxygen debt."""
    treated = np.where(hour > people.antibiotic_hour, people.kill, np.float32(0))
    growth = 0.02 * (1 - body.bacteria / 2) - treated - 0.006
    body.bacteria = clip(body.bacteria * np.exp(growth * dt), 0, 3)
    drive = people.gain * body.bacteria * np.exp(body.drive_noise)
    drive = drive * (1 + 0.30 * np.minimum(body.debt, 2)) * (1 - 0.05 * body.steroid)
    body.inflammation = body.inflammation + (drive - body.inflammation) * (dt / 9)


def illness(body: Body, people: People) -> Column:
    """Log hazard of death beyond the base: what all the injuries add up to."""
    return (
        1.5 * relu(0.9 - body.filtration / people.filtration)
        + 0.30 * np.minimum(body.lung_water, 4)
        + 0.75 * np.minimum(body.coagulopathy, 2.5)
        + 0.80 * np.minimum(body.liver, 2.5)
        + 0.55 * np.minimum(body.encephalopathy, 2)
        + 0.55 * np.minimum(body.debt, 2.2)
        + 0.04 * np.minimum(relu(body.lactate - 1.5), 9)
        + np.minimum(body.ischaemia, 2.5)
        + 0.70 * relu(0.8 - body.contractility)
        + 0.14 * relu(body.interstitium / people.size - 4)
        + 0.021 * (people.age - 64)
        + 0.07 * (people.charlson - 5.3)
        + people.frailty
    )


def late_risk(body: Body, people: People) -> Column:
    """Probability of death by day 90 of those who leave the simulated part alive."""
    ill = illness(body, people)
    many = 0.45 * relu(ill - 2.8) ** 2  # organs that fail together kill more than one by one
    return sigmoid(LATE_RISK + LATE_SLOPE * ill + many + 0.30 * body.inflammation)
