"""Who falls ill: the traits that a patient keeps, most of them hidden from every chart.

Distributions are tuned to published cohorts of sepsis in intensive care and to the open MIMIC-IV
demo (age, comorbidity, weight, dose needs); see docs/synthetic.md.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from world_models.physiology.batch import Batch, Column, sigmoid


@dataclass
class People(Batch):
    """Traits of n patients, each a [n] column.

    Attributes:
        age: Years.
        charlson: Comorbidity index with age points.
        male: Sex.
        weight_kg: Body weight.
        hypertension: Chronic hypertension.
        kidney_disease: Chronic kidney disease.
        dialysis: Chronic dialysis.
        heart_failure: Chronic heart failure.
        cirrhosis: Cirrhosis.
        copd: Chronic obstructive pulmonary disease.
        surgical: Comes from the operating room, ventilated.
        contractility: Of the heart before the illness, 1 is normal.
        filtration: Glomerular filtration before the illness, 1 is normal.
        heart_rate: At rest, bpm.
        resistance: Systemic vascular resistance at rest, mmHg min/L.
        ed50: Norepinephrine for half its effect, ug/kg/min.
        emax: Largest rise of resistance by norepinephrine.
        stressed_volume: That fills the heart, L.
        deficit: Fluid lost before admission, L.
        threshold: Pressure below which organs go short, mmHg.
        leak: Capillary leak in inflammation.
        vasoplegia: Loss of vascular tone in inflammation.
        severity: Illness that no chart shows and a clinician senses.
        gain: Inflammation per bacterial burden.
        kill: Rate at which the antibiotic clears bacteria, 1/h.
        lung_injury: Proneness to it.
        vasopressor_harm: Proneness to ischaemia by vasopressors.
        frailty: Log hazard of death that nothing else explains.
        creatinine: Before the illness, mg/dL.
        bun: The same, mg/dL.
        platelet: The same, K/uL.
        bilirubin: The same, mg/dL.
        inr: The same.
        haemoglobin: The same, g/dL.
        albumin: The same, g/dL.
        transaminase: The same, IU/L.
        urine_factor: Of urine output.
        antibiotic_hour: When an effective antibiotic is given, h from ICU admission.
    """

    age: Column
    charlson: Column
    male: Column
    weight_kg: Column
    hypertension: Column
    kidney_disease: Column
    dialysis: Column
    heart_failure: Column
    cirrhosis: Column
    copd: Column
    surgical: Column
    contractility: Column
    filtration: Column
    heart_rate: Column
    resistance: Column
    ed50: Column
    emax: Column
    stressed_volume: Column
    deficit: Column
    threshold: Column
    leak: Column
    vasoplegia: Column
    severity: Column
    gain: Column
    kill: Column
    lung_injury: Column
    vasopressor_harm: Column
    frailty: Column
    creatinine: Column
    bun: Column
    platelet: Column
    bilirubin: Column
    inr: Column
    haemoglobin: Column
    albumin: Column
    transaminase: Column
    urine_factor: Column
    antibiotic_hour: Column

    @cached_property
    def size(self) -> Column:
        """Body size, 1 at 78 kg."""
        return self.weight_kg / np.float32(78)

    @cached_property
    def metabolic_size(self) -> Column:
        """What flows grow with."""
        return self.size**0.75


def draw_people(n: int, rng: np.random.Generator) -> People:
    """Draws n patients."""

    def normal(mean: float | Column = 0.0, sd: float = 1.0) -> Column:
        return np.asarray(mean + sd * rng.standard_normal(n, np.float32), np.float32)

    def log_normal(median: float | Column, sd: float) -> Column:
        return np.asarray(median * np.exp(normal(0, sd)), np.float32)

    def flag(probability: float | Column) -> Column:
        return (rng.random(n, np.float32) < probability).astype(np.float32)

    age = np.clip(normal(64.5, 16.5), 18, 91)
    charlson = 5.3 + 0.055 * (age - 64) + 2.7 * (rng.gamma(2.2, 1, n) - 2.2) / 1.48
    age_points = np.clip(np.floor((age - 40) / 10), 0, 4)
    charlson = np.clip(np.round(charlson), age_points, 17).astype(np.float32)
    old, sick = (age - 64) / 16, (charlson - 5.3) / 3
    male = flag(0.57)
    weight_kg = np.clip(log_normal(80, 0.25), 38, 180)
    hypertension = flag(sigmoid(-0.1 + 0.7 * old + 0.2 * sick))
    kidney_disease = flag(sigmoid(-1.9 + 0.7 * sick + 0.3 * old))
    heart_failure = flag(sigmoid(-1.7 + 0.7 * sick + 0.4 * old))
    cirrhosis, copd = flag(sigmoid(-2.9 + 0.6 * sick)), flag(sigmoid(-1.8 + 0.4 * sick))
    dialysis = flag(0.035)
    weak, failing = np.clip(normal(0.58, 0.09), 0.35, 0.78), np.clip(normal(0.38, 0.13), 0.12, 0.65)
    filtration = np.where(
        kidney_disease > 0, failing, np.clip(normal(0.92 - 0.08 * old, 0.08), 0.55, 1.1)
    )
    severity = normal()
    resistant = rng.random(n) < 0.14
    return People(
        age=age,
        charlson=charlson,
        male=male,
        weight_kg=weight_kg,
        hypertension=hypertension,
        kidney_disease=kidney_disease,
        dialysis=dialysis,
        heart_failure=heart_failure,
        cirrhosis=cirrhosis,
        copd=copd,
        surgical=flag(0.28),
        contractility=np.where(heart_failure > 0, weak, np.clip(normal(1, 0.09), 0.75, 1.25)),
        filtration=np.where(dialysis > 0, 0.05 + 0.05 * rng.random(n, np.float32), filtration),
        heart_rate=np.clip(normal(74 - 4 * old, 9.5), 50, 105),
        resistance=log_normal(17.9 * np.exp(0.05 * hypertension + 0.03 * old), 0.17)
        / (weight_kg / 78) ** 0.8,
        ed50=log_normal(0.70, 0.55),
        emax=log_normal(3.6, 0.2),
        stressed_volume=normal(1.75, 0.14) + 0.30 * heart_failure,
        deficit=np.clip(rng.gamma(1.5, 0.62, n), 0, 3.2).astype(np.float32)
        * np.where(heart_failure > 0, np.float32(0.35), np.float32(1)),
        threshold=normal(59.5 + 5 * hypertension, 2.5),
        leak=log_normal(0.75, 0.4),
        vasoplegia=np.clip(log_normal(0.86, 0.40), 0.2, 1.7),
        severity=severity,
        gain=log_normal(np.exp(-0.05 + 0.26 * severity), 0.48),
        kill=np.where(resistant, 0.012, np.clip(log_normal(0.055, 0.35), 0.02, 0.15)).astype(
            np.float32
        ),
        lung_injury=log_normal(np.where(rng.random(n) < 0.42, 1.6, 0.45).astype(np.float32), 0.35),
        vasopressor_harm=log_normal(1, 0.35),
        frailty=normal(0.32 * severity, 0.87),
        creatinine=log_normal(0.80 * np.exp(0.10 * male), 0.22),
        bun=log_normal(16.5, 0.35),
        platelet=log_normal(218 * np.where(cirrhosis > 0, 0.5, 1).astype(np.float32), 0.45),
        bilirubin=log_normal(0.50, 0.75)
        * np.where(cirrhosis > 0, 3.6, 1).astype(np.float32)
        * (1 + 5 * flag(0.05)),
        inr=log_normal(1.18, 0.16) * (1 + 0.25 * cirrhosis) * (1 + 0.8 * flag(0.08)),
        haemoglobin=np.clip(normal(10.4 - 0.35 * sick, 1.9), 6, 17),
        albumin=np.clip(normal(3.15 - 0.12 * sick, 0.5), 1.6, 4.8),
        transaminase=log_normal(30, 0.75),
        urine_factor=log_normal(1, 0.45) * np.where(dialysis > 0, 0.15, 1).astype(np.float32),
        antibiotic_hour=np.clip(rng.gamma(1.6, 2.2, n) - 4, -8, 18).astype(np.float32),
    )
