"""Validity of what is seen: marginals, time courses, identities, mortality."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sepsis_gym.dynamics import End
from sepsis_gym.features import FEATURE_INDEX, FEATURE_NAMES
from sepsis_gym.sofa import state_sofa_components
from world_models.physiology.courses import Courses
from world_models.physiology.fit_layer import binned, reference_imputed
from world_models.physiology.targets import (
    CORRELATIONS,
    FEATURE_TARGETS,
    LOG_STEP,
    MORTALITY_BY_LACTATE,
    MORTALITY_BY_SOFA,
)
from world_models.physiology.validity.checks import Check, at_least, at_most, within

_TIME_COURSE = (
    "heart_rate", "sysbp", "diabp", "meanbp", "resp_rate", "spo2", "temp_c", "lactate",
    "creatinine", "gcs_eye", "gcs_verbal", "gcs_motor",
)  # fmt: skip
WINDOW_BINS = 13
_FEWEST_IN_STRATUM = 30


class Seen:
    """Courses under ordinary care, binned."""

    def __init__(self, courses: Courses) -> None:
        """Bins the readings of 4 h."""
        self.courses = courses
        self.raw, lengths, self.ventilated = binned(courses)
        self.raw = self.raw[:, : WINDOW_BINS + 6]
        self.lengths = np.minimum(lengths, self.raw.shape[1])
        self.ventilated = self.ventilated[:, : self.raw.shape[1]]
        self.alive = np.arange(self.raw.shape[1]) < self.lengths[:, None]
        self.raw[~self.alive] = np.nan
        self.death = np.where(courses.end == End.DIED, 1.0, courses.late_risk)
        hours = self.raw.shape[1] * 4
        dose = courses.dose[:hours].reshape(-1, 4, courses.dose.shape[1])
        self.dose = dose.max(1).T
        fluid = courses.bolus_l + courses.carrier_l_h
        self.fluid_ml = 1000 * fluid[:hours].reshape(dose.shape).sum(1).T

    def column(self, name: str) -> NDArray[np.float32]:
        """[n, T] one feature."""
        return self.raw[..., FEATURE_INDEX[name]]


def marginals(seen: Seen) -> Iterator[Check]:
    """Test 3."""
    values = reference_imputed(seen.raw, seen.lengths, seen.ventilated)
    off = []
    for index, name in enumerate(FEATURE_NAMES):
        target = FEATURE_TARGETS[name]
        shift = (values[:, index].mean() - target.mean) / target.sd
        ratio = values[:, index].std() / target.sd
        if not (abs(shift) < 0.25 and 0.7 <= ratio <= 1.4):
            off.append(f"{name} (mean {shift:+.2f} sd, sd x{ratio:.2f})")
    kept = len(FEATURE_NAMES) - len(off)
    yield Check(
        3,
        "features within 0.25 sd and sd ratio 0.7-1.4 of MIMIC-IV, same imputation",
        "at least 36 of 39",
        f"{kept} of 39",
        kept >= 36,
        ", ".join(off),
    )


def persistence(seen: Seen, name: str) -> tuple[float, float]:
    """Lag-1 correlation of a feature's bins and deviation of its steps, logarithmic as targeted."""
    values = seen.column(name)
    if name in LOG_STEP:
        values = np.log(np.maximum(values, 0.05))
    before, after = values[:, :-1], values[:, 1:]
    both = ~np.isnan(before) & ~np.isnan(after)
    lag = np.corrcoef(before[both], after[both])[0, 1]
    return float(lag), float((after - before)[both].std())


def time_courses(seen: Seen) -> Iterator[Check]:
    """Test 4."""
    far: list[str] = []
    for name in _TIME_COURSE:
        target = FEATURE_TARGETS[name]
        lag, step = persistence(seen, name)
        if target.lag1 is not None and abs(lag - target.lag1) > 0.12:
            far.append(f"{name} r {lag:.2f} for {target.lag1}")
        if target.step_sd is not None and not 0.65 <= step / target.step_sd <= 1.35:
            far.append(f"{name} step {step:.3g} for {target.step_sd:.3g}")
    n = 2 * len(_TIME_COURSE)
    yield Check(
        4,
        "lag-1 r within 0.12, step sd within 35%: vitals, lactate, creatinine, coma score",
        f"{n} of {n}",
        f"{n - len(far)} of {n}",
        not far,
        ", ".join(far),
    )
    far = []
    for (one, other), wanted in CORRELATIONS.items():
        a, b = seen.column(one), seen.column(other)
        both = ~np.isnan(a) & ~np.isnan(b)
        found = np.corrcoef(a[both], b[both])[0, 1]
        if abs(found - wanted) > 0.15:
            far.append(f"{one}~{other} {found:.2f} for {wanted}")
    n = len(CORRELATIONS)
    yield Check(
        4,
        "correlations within 0.15 of the demo's",
        f"{n} of {n}",
        f"{n - len(far)} of {n}",
        not far,
        ", ".join(far),
    )


def identities(courses: Courses) -> Iterator[Check]:
    """Test 5: hour by hour, before binning."""
    at = {name: courses.readings[..., index] for name, index in FEATURE_INDEX.items()}
    ordered = (at["diabp"] < at["meanbp"]) & (at["meanbp"] < at["sysbp"])
    expected = 6.1 + np.log10(at["bicarbonate"] / (0.0307 * at["paco2"]))
    residual = np.abs(at["ph"] - expected)
    gap = at["sodium"] - at["chloride"] - at["bicarbonate"]
    ratio = at["hematocrit"] / at["hemoglobin"]
    tube = courses.flags[..., 0] > 0
    holds = {
        "diastolic < mean < systolic": ordered.mean(),
        "Henderson-Hasselbalch within 0.03": (residual < 0.03).mean(),
        "anion gap 3-40": ((gap >= 3) & (gap <= 40)).mean(),
        "hematocrit / hemoglobin 2.7-3.4": ((ratio >= 2.69) & (ratio <= 3.41)).mean(),
        "intubated: verbal response untestable": np.isnan(at["gcs_verbal"][tube]).mean(),
        "FiO2 0.21-1": ((at["fio2"] >= 0.21) & (at["fio2"] <= 1)).mean(),
    }
    for name, share in holds.items():
        yield at_least(5, f"share of rows: {name}", float(share), 0.995, 3)


def first_day_sofa(seen: Seen) -> NDArray[np.int64]:
    """[n] each organ's worst points of the first six bins, summed; values held within the stay."""
    values = seen.raw[:, :6].copy()
    for t in range(1, values.shape[1]):
        values[:, t] = np.where(np.isnan(values[:, t]), values[:, t - 1], values[:, t])
    known = ~np.isnan(values)
    organs = state_sofa_components(
        np.nan_to_num(values), known, seen.ventilated[:, :6], seen.dose[:, :6]
    )
    return np.where(seen.alive[:, :6, None], organs, 0).max(1).sum(-1)


def mortality(seen: Seen) -> Iterator[Check]:
    """Tests 6 and 14."""
    death, courses = seen.death, seen.courses
    yield within(6, "90-day mortality", float(death.mean()), 0.20, 0.30)
    yield _by_stratum("SOFA", first_day_sofa(seen), 1, MORTALITY_BY_SOFA, death)
    yield _by_stratum("lactate", _worst_lactate(seen), 0, MORTALITY_BY_LACTATE, death)
    rng = np.random.default_rng(0)
    died = rng.random(len(death)) < death
    observed = _auroc(_summary(seen), died)
    ceiling = roc_auc_score(died, courses.risk)
    yield within(6, "AUROC of death from what is observed in 52 h", observed, 0.76, 0.84, 3)
    yield Check(
        6,
        "observed AUROC below that of the true risk",
        "below",
        f"{observed:.3f} < {ceiling:.3f}",
        bool(observed < ceiling),
    )
    given = [x * seen.alive[:, : x.shape[1]] for x in (seen.dose, seen.fluid_ml / 1000)]
    doses = np.column_stack([f for x in given for f in (x.mean(1), x.max(1), x[:, :3].mean(1))])
    yield at_most(14, "AUROC of death from the doses alone", _auroc(doses, died), 0.70)


def _by_stratum(
    what: str,
    severity: NDArray[Any],
    beyond: int,
    targets: Mapping[tuple[int, int], float],
    death: NDArray[np.floating],
) -> Check:
    """Mortality of each stratum, whose values lie below its last one plus ``beyond``."""
    risks, off = [], []
    for (low, high), wanted in targets.items():
        member = (severity >= low) & (severity < high + beyond)
        if member.sum() < _FEWEST_IN_STRATUM:
            off.append(f"{low}-{high}: {member.sum()} patients")
            continue
        risks.append(float(death[member].mean()))
        if abs(risks[-1] - wanted) > 0.05:
            off.append(f"{low}-{high}: {risks[-1]:.2f} for {wanted:.2f}")
    return Check(
        6,
        f"mortality by first-day {what}: rising, each within 5 points",
        "all strata",
        " ".join(f"{risk:.2f}" for risk in risks),
        bool(np.all(np.diff(risks) > 0)) and not off,
        "; ".join(off),
    )


def _worst_lactate(seen: Seen) -> NDArray[np.float32]:
    """[n] highest of the first day, mmol/L; -1 where none was measured."""
    lactate = seen.column("lactate")[:, :6]
    measured = ~np.isnan(lactate)
    return np.where(measured.any(1), np.where(measured, lactate, -1).max(1), -1)


def _summary(seen: Seen) -> NDArray[np.float64]:
    """[n, k] last, mean and worst of 52 h."""
    values = seen.raw[:, :WINDOW_BINS].astype(np.float64)
    count = np.maximum((~np.isnan(values)).sum(1), 1)
    mean = np.nansum(values, axis=1) / count
    last = values[:, 0].copy()
    for t in range(1, values.shape[1]):
        last = np.where(np.isnan(values[:, t]), last, values[:, t])
    fill = np.nanmean(last, axis=0)
    last = np.where(np.isnan(last), fill, last)
    people = seen.courses.people
    return np.column_stack([mean, last, people.age, people.charlson, seen.dose.mean(1)])


def _auroc(features: NDArray[np.float64], died: NDArray[np.bool_]) -> float:
    scaled = np.sign(features) * np.log1p(np.abs(features))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    chance = cross_val_predict(model, scaled, died, cv=5, method="predict_proba")[:, 1]
    return float(roc_auc_score(died, chance))
