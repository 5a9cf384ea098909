"""PROVISIONAL: a few equations that stand in for the mechanistic patient, then to be deleted.

They give the provisional tables something to be made from: septic patients who respond to treatment
in the right direction, and clinicians who react to what they see. No clinical validity is claimed
for any number; they are tuned by hand so that the made-up cohort looks roughly like an ICU's.

Patients, their luck and the clinicians' choices come from separate random streams, so two policies
meet the same patients and the same luck.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
HOURS_BEFORE = 6
"""Hours simulated before ICU admission, under the emergency department's care."""
HOURS_IN_ICU = 168
"""Longest ICU stay; whoever is still there then is discharged."""
_RANDOM_EVERY_HOURS = 4


@dataclass(frozen=True)
class Traits:
    """What a patient and their clinician bring along, [n] each; flags are 0 or 1.

    ``severity`` is seen by the clinician but charted nowhere: the confounder.
    """

    age: Floats
    male: Floats
    weight_kg: Floats
    frailty: Floats
    heart_failure: Floats
    kidney: Floats
    septic: Floats
    severity: Floats
    source: Floats
    antibiotic_hour: Floats
    clearance: Floats
    vasoplegia: Floats
    resistance: Floats
    lung_injury: Floats
    resting_mmhg: Floats
    target_mmhg: Floats
    liberality: Floats
    carrier_ml_h: Floats
    randomised: Floats


@dataclass(frozen=True)
class State:
    """Patients in one hour, [n] each, with the treatment of the hour; or all hours, [H, n]."""

    inflammation: Floats
    plasma_l: Floats
    tissue_l: Floats
    lung_water: Floats
    kidney: Floats
    hypoperfusion: Floats
    lactate: Floats
    coagulation: Floats
    liver: Floats
    encephalopathy: Floats
    ischaemia: Floats
    tone_noise: Floats
    map_mmhg: Floats
    ventilated: Floats
    bolus_ml: Floats
    carrier_ml: Floats
    norepinephrine: Floats


@dataclass(frozen=True)
class Course:
    """A simulated cohort.

    Attributes:
        traits: The patients.
        hourly: [HOURS_IN_ICU, n] the ICU stay; what follows ``end_hour`` never happened.
        end_hour: [n] ICU discharge or death.
        died_in_icu: [n] whether it was death.
        days_to_death: [n] from ICU discharge, 0 if died there, inf if alive after 90 days.
        risk: [n] probability of death within 90 days, before the dice are thrown.
    """

    traits: Traits
    hourly: State
    end_hour: NDArray[np.int64]
    died_in_icu: NDArray[np.bool_]
    days_to_death: Floats
    risk: Floats


Policy = Callable[[Traits, State, int, np.random.Generator], tuple[Floats, Floats, Floats]]
"""(traits, state, hour, stream) to bolus mL, carrier mL/h, norepinephrine ug/kg/min; [n] each."""


def relu(x: Floats) -> Floats:
    """The positive part."""
    return np.maximum(x, 0.0)


def logistic(x: Floats | float) -> Floats:
    """Probability of a log-odds."""
    return 1 / (1 + np.exp(-np.clip(np.asarray(x, np.float64), -40, 40)))


def draw_traits(n: int, rng: np.random.Generator, randomised_share: float = 0.0) -> Traits:
    """Draws n patients, this share of whom is given random doses."""

    def z() -> Floats:
        return rng.standard_normal(n)

    age, frailty, severity = np.clip(64 + 16.5 * z(), 18, 91), z(), z()
    old = (age - 64) / 16
    heart_failure = (rng.random(n) < logistic(-1.7 + 0.6 * frailty + 0.4 * old)).astype(float)
    kidney_disease = rng.random(n) < logistic(-1.9 + 0.6 * frailty + 0.3 * old)
    septic = (rng.random(n) < 0.9).astype(float)
    return Traits(
        age=age,
        male=(rng.random(n) < 0.57).astype(float),
        weight_kg=np.clip(80 * np.exp(0.24 * z()), 40, 170),
        frailty=frailty,
        heart_failure=heart_failure,
        kidney=np.clip(0.95 - 0.08 * old - 0.5 * kidney_disease + 0.1 * z(), 0.1, 1.2),
        septic=septic,
        severity=severity,
        source=np.exp(0.08 + 0.45 * z() + 0.28 * severity) * np.where(septic > 0, 1, 0.12),
        antibiotic_hour=np.clip(rng.gamma(1.6, 2.2, n) - 5, -5, 16),
        clearance=np.where(rng.random(n) < 0.14, 0.004, 0.03 * np.exp(0.35 * z())),
        vasoplegia=np.clip(0.95 * np.exp(0.38 * z()), 0.2, 1.9),
        resistance=0.45 * np.exp(0.5 * z()),
        lung_injury=np.where(rng.random(n) < 0.42, 1.6, 0.5) * np.exp(0.35 * z()),
        resting_mmhg=93 + 8 * z(),
        target_mmhg=66 + 4 * z(),
        liberality=z(),
        carrier_ml_h=np.where(rng.random(n) < 0.22, 0.0, 30 * np.clip(np.exp(0.8 * z()), 0.2, 4)),
        randomised=(rng.random(n) < randomised_share).astype(float),
    )


def _at_the_door(traits: Traits, rng: np.random.Generator) -> State:
    n = len(traits.age)
    deficit = np.clip(rng.gamma(1.5, 0.6, n), 0, 3) * traits.septic
    deficit *= np.where(traits.heart_failure > 0, 0.4, 1)
    known = {
        "inflammation": traits.source,
        "plasma_l": -0.5 * deficit,
        "tissue_l": -0.7 * deficit,
        "lung_water": 0.25 + 0.3 * traits.lung_injury * traits.septic,
        "kidney": traits.kidney,
        "lactate": 1.0 + 0.6 * traits.source,
        "encephalopathy": 0.3 * traits.source,
        "map_mmhg": 80 - 8 * traits.source,
        "ventilated": (rng.random(n) < 0.3).astype(float),
    }
    return State(**{f.name: known.get(f.name, np.zeros(n)) for f in fields(State)})


def pao2_fio2(state: State) -> Floats:
    """Oxygenation, mmHg."""
    return np.clip(420 * np.exp(-0.5 * state.lung_water), 50, 500)


def urine_ml_h(traits: Traits, state: State) -> Floats:
    """Urine output."""
    size = traits.weight_kg / 78
    volume = np.clip(state.plasma_l / size, -1, 1.5)
    flow = logistic((state.map_mmhg - 58) / 6) * np.exp(0.35 * volume)
    return 75 * size * np.maximum(state.kidney, 0.01) ** 0.9 * flow


def severity_score(traits: Traits, state: State) -> Floats:
    """Log-odds of dying, up to a constant."""
    return (
        1.6 * relu(0.9 - state.kidney / traits.kidney)
        + 0.3 * np.minimum(state.lung_water, 4)
        + 0.7 * np.minimum(state.coagulation + state.liver, 4)
        + 0.5 * np.minimum(state.encephalopathy, 2)
        + 1.2 * np.minimum(state.hypoperfusion, 2.5)
        + 0.17 * np.minimum(relu(state.lactate - 1.5), 9)
        + state.ischaemia
        + 0.021 * (traits.age - 64)
        + 0.25 * traits.frailty
        + 0.3 * traits.severity
    )


def advance(
    traits: Traits,
    state: State,
    hour: int,
    treatment: tuple[Floats, Floats, Floats],
    rng: np.random.Generator,
) -> State:
    """One hour under (bolus mL, carrier mL/h, norepinephrine ug/kg/min)."""
    bolus_ml, carrier_ml, dose = treatment
    luck, chance = rng.standard_normal((2, len(dose))), rng.random(len(dose))
    size, fire = traits.weight_kg / 78, state.inflammation
    volume = state.plasma_l / size
    pressor = dose / (dose + traits.resistance * (1 + 0.4 * fire))
    noise = 0.75 * state.tone_noise + 2.6 * luck[0]
    preload = np.where(traits.heart_failure > 0, 5, 11) * np.tanh(volume / 0.8)
    lost_tone = 42 * traits.vasoplegia * fire / (0.8 + fire)
    pressure = traits.resting_mmhg - lost_tone + 75 * pressor + preload + noise
    pressure = np.clip(np.minimum(pressure, 0.6 * pressure + 36), 25, 150)
    filled = relu(volume - 0.9) * np.where(traits.heart_failure > 0, 2, 1)
    swollen = relu(state.tissue_l / size - 2)
    low = relu(62 - pressure) / 10
    toxic = dose**1.8 / (0.5 + dose**1.8) + 0.5 * relu(pressure - 92) / 15 * (dose > 0)
    strain = low + 0.9 * relu(-volume - 0.35) + 0.35 * toxic + 0.1 * swollen + 0.08 * fire
    hypoperfusion = np.minimum(state.hypoperfusion + 0.6 * (strain - state.hypoperfusion), 3)
    leak = 0.35 * (0.6 + 0.5 * fire) * (volume + 0.5 * fire - state.tissue_l / size / 4) * size
    gain_l = (bolus_ml + carrier_ml - urine_ml_h(traits, state)) / 1000 + 0.04 - leak
    kidney_loss = 0.005 * fire + 0.035 * low + 0.02 * (filled + toxic) + 0.01 * hypoperfusion
    drift = np.where(traits.antibiotic_hour < hour, -traits.clearance, 0.006)
    drift = drift + 0.004 * np.minimum(hypoperfusion, 2)
    clot, yellow, dazed = state.coagulation, state.liver, state.encephalopathy
    return State(
        inflammation=np.clip(fire * np.exp(drift + 0.03 * luck[1]), 0.02, 3),
        plasma_l=np.clip(state.plasma_l + gain_l, -2.5, 5),
        tissue_l=state.tissue_l + leak,
        lung_water=0.945 * state.lung_water
        + 0.045 * traits.lung_injury * np.minimum(fire, 2)
        + 0.05 * filled
        + 0.03 * swollen,
        kidney=np.clip(
            state.kidney * (1 - kidney_loss) + 0.012 * (traits.kidney - state.kidney), 0.03, 1.2
        ),
        hypoperfusion=hypoperfusion,
        lactate=0.85 * state.lactate
        + 0.15 * (0.9 + 0.4 * fire + 3.2 * hypoperfusion + 0.5 * pressor),
        coagulation=0.988 * clot + 0.01 * fire + 0.02 * hypoperfusion,
        liver=0.99 * yellow + 0.006 * fire + 0.02 * hypoperfusion,
        encephalopathy=dazed + (0.5 * fire + 0.7 * hypoperfusion - dazed) / 7,
        ischaemia=0.98 * state.ischaemia + 0.025 * toxic,
        tone_noise=noise,
        map_mmhg=pressure,
        ventilated=_ventilation(state, dose, chance),
        bolus_ml=bolus_ml,
        carrier_ml=carrier_ml,
        norepinephrine=dose,
    )


def _ventilation(state: State, dose: Floats, chance: Floats) -> Floats:
    oxygen, dazed = pao2_fio2(state), state.encephalopathy
    shock = (dose > 0.15) | (state.lactate > 4)
    intubated = 0.002 + 0.03 * (oxygen < 170) + 0.1 * (oxygen < 110) + 0.02 * shock
    intubated = intubated + 0.04 * (dazed > 1)
    weaned = 0.03 * (oxygen > 190) * (dazed < 0.8) * ~shock
    return np.where(state.ventilated > 0, chance > weaned, chance < intubated).astype(float)


def clinician(
    traits: Traits, state: State, hour: int, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Reacts to pressure, lactate and urine as charted, and to a severity that nobody charts."""
    n = len(traits.age)
    chance, noise = rng.random((4, n)), rng.standard_normal((2, n))
    seen = state.map_mmhg + 3 * noise[0]
    gap = traits.target_mmhg - seen
    worried = 0.7 * traits.severity
    start = chance[0] < logistic(-2.0 + 0.22 * gap + 0.5 * worried) * (gap > 2)
    dose = state.norepinephrine
    titrated = dose * np.exp(0.45 * np.clip((gap + 1) / 9, -0.8, 1.2) + 0.12 * noise[1])
    hold = (np.abs(gap + 1) < 4) | (chance[1] < 0.2)
    running = np.where(hold, dose, titrated)
    running = np.where(running < 0.025, 0.0, np.minimum(running, 1.6))
    dose = np.where(dose > 0, running, start * 0.06 * np.exp(0.5 * noise[1]))
    eager = -3.0 + 0.09 * (66 - seen) + 0.2 * (state.lactate - 2) + 0.6 * traits.liberality
    eager = eager + 0.4 * worried - 0.03 * max(hour, 0) - 0.4 * traits.heart_failure
    eager = eager + 0.6 * (urine_ml_h(traits, state) < 25)
    bolus = (chance[2] < logistic(eager)) * np.where(chance[3] < 0.3, 250.0, 500.0)
    carrier = traits.carrier_ml_h * (hour < 60 + 30 * traits.liberality) + 20 * (dose > 0) * (
        traits.liberality > -1.2
    )
    drawn = _random_doses(n, state, hour, rng)
    chosen = (bolus, np.rint(carrier), np.rint(100 * dose) / 100)
    fluid, carried, pressor = (
        np.where(traits.randomised > 0, any_dose, own)
        for any_dose, own in zip(drawn, chosen, strict=True)
    )
    return fluid, carried, pressor


def _random_doses(
    n: int, state: State, hour: int, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Doses drawn anew every 4 h of the ICU stay, whatever the patient's state."""
    level = rng.random((2, n))
    if hour % _RANDOM_EVERY_HOURS:
        return np.zeros(n), state.carrier_ml, state.norepinephrine
    carrier = np.where(level[0] < 0.25, 0.0, np.rint(np.exp(1.5 + 4 * level[0])))
    dose = np.where(level[1] < 0.4, 0.0, np.rint(100 * np.exp(-6.5 + 5.8 * level[1])) / 100)
    return np.zeros(n), carrier, dose


def simulate_course(
    n: int, seed: int, policy: Policy = clinician, *, randomised_share: float = 0.0
) -> Course:
    """Runs n patients from the emergency department to ICU discharge or death, and to day 90."""
    patient_seed, luck_seed, policy_seed, fate_seed = np.random.SeedSequence(seed).spawn(4)
    draws, luck = np.random.default_rng(patient_seed), np.random.default_rng(luck_seed)
    choices, fate = np.random.default_rng(policy_seed), np.random.default_rng(fate_seed)
    traits = draw_traits(n, draws, randomised_share)
    state = _at_the_door(traits, draws)
    end_hour, over = np.full(n, HOURS_IN_ICU), np.zeros(n, bool)
    died, survival = np.zeros(n, bool), np.ones(n)
    final = severity_score(traits, state)
    hourly: list[State] = []
    for hour in range(-HOURS_BEFORE, HOURS_IN_ICU):
        state = advance(traits, state, hour, policy(traits, state, hour, choices), luck)
        chance = fate.random((2, n))
        if hour < 0:
            continue
        hourly.append(state)
        score = severity_score(traits, state)
        hazard = np.exp(-10.1 + 1.1 * score + 2.5 * relu(55 - state.map_mmhg) / 9)
        hazard = np.minimum(hazard, 0.5)
        well = (state.norepinephrine == 0) & (state.ventilated == 0) & (state.lactate < 2.4)
        leaves = chance[1] < 0.024 * (well & (state.hypoperfusion < 0.4) & (hour >= 10))
        dies = chance[0] < hazard
        survival = np.where(over, survival, survival * (1 - hazard))
        final = np.where(over, final, score)
        ends = ~over & (dies | leaves)
        died |= ends & dies
        end_hour[ends] = hour + 1
        over |= ends
    later = logistic(-2.75 + 0.85 * final)
    days = np.where(fate.random(n) < later, np.ceil(fate.gamma(1.2, 14, n)).clip(1, 80), np.inf)
    return Course(
        traits=traits,
        hourly=State(
            **{f.name: np.stack([getattr(s, f.name) for s in hourly]) for f in fields(State)}
        ),
        end_hour=end_hour,
        died_in_icu=died,
        days_to_death=np.where(died, 0.0, days),
        risk=1 - survival * (1 - later),
    )
