"""What the bedside shows of a body: the 39 features as an instrument or laboratory reads them.

Readings are made once an hour. Each is the body's state seen through a patient's own offset, a
slowly drifting error, and a frozen monotone layer that was fitted once (``calibration.py``) so that
a cohort under ordinary care has the means and spreads of published ones; the same layer serves
every policy and every counterfactual, so that what the body does stays what it is.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.features import FEATURE_INDEX, FEATURE_NAMES, HIGH, LOW, N_FEATURES
from world_models.physiology.batch import Column, relu
from world_models.physiology.body import Body
from world_models.physiology.calibration import GCS_CUTS, LAYER
from world_models.physiology.people import People

TESTS = ("coagulation", "liver", "albumin", "gas", "lactate", "urinary catheter")
_EVER_TESTED = np.array([0.93, 0.62, 0.48, 0.79, 0.84, 0.60], np.float32)
N_GROUPS = 13
"""Groups of features that are measured together, see ``GROUP``."""
_CORRELATION_4H = np.full(N_FEATURES, 0.60, np.float32)
for _name, _r in {
    "heart_rate": 0.30, "sysbp": 0.15, "diabp": 0.15, "meanbp": 0.15, "spo2": 0.15,
    "temp_c": 0.30, "lactate": 0.15, "resp_rate": 0.35, "gcs_eye": 0.50,
    "sodium": 0.90, "chloride": 0.80, "potassium": 0.50, "magnesium": 0.70, "glucose": 0.45,
    "platelet": 0.50, "wbc": 0.60, "hemoglobin": 0.50, "output_4hourly": 0.30,
}.items():  # fmt: skip
    _CORRELATION_4H[FEATURE_INDEX[_name]] = _r
_KEPT = _CORRELATION_4H**0.25  # per hour
_RENEWED = np.sqrt(1 - _KEPT**2)


@dataclass
class Instruments:
    """What makes each patient's readings its own.

    Attributes:
        offset: [n, 39] standard normal, one per patient and feature.
        error: [n, 39] standard normal that drifts from hour to hour.
        tested: [n, 6] whether each of ``TESTS`` is ever done.
        clock: [n] hour of the day at ICU admission.
    """

    offset: NDArray[np.float32]
    error: NDArray[np.float32]
    tested: NDArray[np.float32]
    clock: Column

    @classmethod
    def draw(cls, n: int, rng: np.random.Generator) -> Self:
        """For n patients."""
        return cls(
            rng.standard_normal((n, N_FEATURES), np.float32),
            rng.standard_normal((n, N_FEATURES), np.float32),
            (rng.random((n, len(TESTS)), np.float32) < _EVER_TESTED).astype(np.float32),
            rng.random(n, np.float32) * 24,
        )

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Self:
        """Those of the patients at these positions."""
        return type(self)(
            self.offset[index], self.error[index], self.tested[index], self.clock[index]
        )

    def drift(self, normal: NDArray[np.float32]) -> None:
        """Moves the errors on by an hour; ``normal`` is [n, 39] standard normal."""
        self.error = _KEPT * self.error + _RENEWED * normal


def truth(body: Body, people: People, offset: NDArray[np.float32]) -> dict[str, Column]:
    """Features as perfect instruments would read them, before the layer; [n] each.

    Args:
        body: n bodies.
        people: Their traits.
        offset: [n, 39] the patients' offsets.
    """
    z = {name: offset[:, index] for index, name in enumerate(FEATURE_NAMES)}
    fire, fluid = body.inflammation, body.fluid_l
    mean = body.pressure + 0.5 + 2.5 * z["meanbp"]
    pulse = 57 * (np.maximum(body.stroke_volume, 5) / 62) ** 0.35
    pulse = pulse * np.exp(0.23 * z["sysbp"] + 0.006 * (people.age - 64))
    inr = people.inr * np.exp(0.30 * body.coagulopathy + 0.42 * body.liver)
    albumin = people.albumin - 0.28 * fire - 0.05 * fluid
    calcium = 1.12 + 0.05 * z["calcium_free"]
    sodium = 138.7 + 4.0 * z["sodium"] + 0.2 * (fluid - 2)
    excess = (
        2.2
        - 1.55 * (body.lactate - 1.2)
        - 8 * relu(0.55 - body.filtration) * (1 - 0.7 * body.dialysed)
        - 0.45 * fluid
        + 2.6 * z["base_excess"]
    )
    carbon_dioxide = 40.3 + 4.9 * z["paco2"] + 9 * people.copd + 0.55 * excess
    bicarbonate = 24.3 + 0.93 * excess + 0.14 * (carbon_dioxide - 40)
    return {
        "heart_rate": body.heart_rate + 3 * z["heart_rate"],
        "meanbp": mean,
        "diabp": mean - 0.295 * pulse,
        "sysbp": mean + 0.705 * pulse,
        "resp_rate": 18.4
        + 1.9 * fire
        + 0.016 * relu(320 - body.oxygenation)
        + 0.7 * relu(body.lactate - 2)
        + 2.5 * z["resp_rate"],
        "spo2": 99 - 80 * (0.99 - body.saturation) + 0.8 * z["spo2"],
        "temp_c": 36.78 + 0.42 * fire - 0.25 * relu(body.debt - 0.8) + 0.22 * z["temp_c"],
        "fio2": body.fio2,
        "consciousness": -1.30
        + 1.75 * body.encephalopathy
        + body.ventilated * (2.0 + np.float32(0.9) * (body.encephalopathy > 0.4))
        + z["gcs_eye"],
        "albumin": albumin,
        "alt": people.transaminase * np.exp(1.75 * np.minimum(body.liver_ischaemia, 3.5)),
        "ast": 1.3
        * people.transaminase
        * np.exp(1.75 * np.minimum(body.liver_ischaemia, 3.5) + 0.35 * z["ast"]),
        "bicarbonate": np.maximum(bicarbonate, 4),
        "bilirubin_total": body.bilirubin,
        "bun": body.bun,
        "calcium_free": calcium,
        "calcium_total": 8.3
        + 0.9 * (albumin - 2.86)
        + 2.5 * (calcium - 1.12)
        + 0.45 * z["calcium_total"],
        "chloride": 104
        + 0.92 * (sodium - 138.7)
        - 0.45 * (bicarbonate - 23.4)
        + 0.7 * (fluid - 1.7)
        + 2 * z["chloride"],
        "creatinine": body.creatinine,
        "glucose": 128
        * np.exp(
            0.22 * z["glucose"]
            + 0.12 * (fire - 0.5)
            + 0.15 * body.vasopressor / (body.vasopressor + 0.5)
            + 0.10 * body.steroid
        ),
        "hemoglobin": body.haemoglobin,
        "hematocrit": 2.93 * body.haemoglobin - 0.3,
        "inr": inr,
        "lactate": body.lactate,
        "magnesium": 2.1 + 0.28 * z["magnesium"] + 0.3 * relu(0.5 - body.filtration),
        "paco2": np.maximum(carbon_dioxide, 12),
        "pao2": body.oxygenation * body.fio2,
        "platelet": body.platelet,
        "potassium": 4.05
        + 0.8 * relu(0.6 - body.filtration) * (1 - body.dialysed)
        - 0.06 * excess
        + 0.35 * z["potassium"],
        "pt": 10.7 * inr,
        "ptt": 29.5 * inr**0.55 * np.where(z["ptt"] > 1.08, np.float32(1.9), np.float32(1)),
        "sodium": sodium,
        "wbc": 9.5 * np.exp(0.45 * z["wbc"] + 0.25 * (fire - 0.6)),
        "output_4hourly": 4 * body.urine_ml_h,
    }


def read(body: Body, people: People, instruments: Instruments) -> NDArray[np.float32]:
    """[n, 39] readings of this hour, clinical units; verbal response under a tube is NaN."""
    e = {name: instruments.error[:, index] for index, name in enumerate(FEATURE_NAMES)}
    shown = truth(body, people, instruments.offset)
    pulse = 12 * e["sysbp"]
    for name, share in (("meanbp", 0.0), ("diabp", -0.295), ("sysbp", 0.705)):
        shown[name] = shown[name] + 8.5 * e["meanbp"] + share * pulse
    for name, sd in _ADDED.items():
        shown[name] = shown[name] + sd * e["gcs_eye" if name == "consciousness" else name]
    for name, sd in _MULTIPLIED.items():
        shown[name] = shown[name] * np.exp(sd * e[name])
    shown["pt"] = shown["pt"] * np.exp(_MULTIPLIED["inr"] * e["inr"])
    shown["chloride"] = shown["chloride"] + 0.92 * _ADDED["sodium"] * e["sodium"]
    shown["hematocrit"] = shown["hematocrit"] + 2.93 * _ADDED["hemoglobin"] * e["hemoglobin"]
    return _finish(shown, body)


CONSCIOUSNESS_ERROR = 0.62
_ADDED = {
    "heart_rate": 8.5, "resp_rate": 4.0, "spo2": 2.1, "temp_c": 0.39,
    "consciousness": CONSCIOUSNESS_ERROR,
    "albumin": 0.12, "bicarbonate": 1.2, "calcium_free": 0.05, "calcium_total": 0.35,
    "chloride": 1.6, "hemoglobin": 0.75, "hematocrit": 0.7, "magnesium": 0.22, "paco2": 4.6,
    "potassium": 0.48, "sodium": 2.2,
}  # fmt: skip
"""Spread of the drifting error, the feature's unit."""
_MULTIPLIED = {
    "alt": 0.12, "ast": 0.12, "bilirubin_total": 0.08, "bun": 0.06, "creatinine": 0.09,
    "glucose": 0.27, "inr": 0.07, "lactate": 0.19, "pao2": 0.36, "platelet": 0.24, "ptt": 0.20,
    "wbc": 0.25, "output_4hourly": 0.45,
}  # fmt: skip
"""The same for features whose error grows with them, on the log scale."""


def _finish(shown: dict[str, Column], body: Body) -> NDArray[np.float32]:
    """Layer, gases that fit together, consciousness in points, limits, the rounding of a chart."""
    for name, (shift, scale, logarithmic) in LAYER.items():
        if logarithmic:
            shown[name] = np.exp(shift + scale * np.log(np.maximum(shown[name], 1e-3)))
        else:
            shown[name] = shift + scale * shown[name]
    shown["hematocrit"] = np.clip(
        shown["hematocrit"], 2.72 * shown["hemoglobin"], 3.38 * shown["hemoglobin"]
    )
    bicarbonate, carbon_dioxide = shown["bicarbonate"], np.clip(shown["paco2"], 12, 140)
    shown["paco2"] = carbon_dioxide
    bicarbonate = np.clip(bicarbonate, 4, 55)
    # Henderson-Hasselbalch (pK 6.1, CO2 solubility 0.0307 mmol/L/mmHg); base excess by the
    # Van Slyke equation (Siggaard-Andersen 1977) at fixed haemoglobin
    shown["ph"] = np.clip(6.1 + np.log10(bicarbonate / (0.0307 * carbon_dioxide)), 6.7, 7.75)
    shown["total_co2"] = bicarbonate + 0.031 * carbon_dioxide
    shown["base_excess"] = 0.93 * (bicarbonate - 24.4) + 13.8 * (shown["ph"] - 7.4)
    shown["bicarbonate"] = bicarbonate
    most = shown["sodium"] - bicarbonate  # electrically neutral blood
    shown["chloride"] = np.clip(shown["chloride"], most - 38, most - 4.5)
    level = shown["consciousness"]
    for part, best in (("eye", 4), ("verbal", 5), ("motor", 6)):
        lost = np.searchsorted(np.array(GCS_CUTS[part], np.float32), level)
        shown[f"gcs_{part}"] = best - lost.astype(np.float32)
    shown["gcs_verbal"] = np.where(body.ventilated > 0, np.nan, shown["gcs_verbal"])
    shown["spo2"] = np.minimum(shown["spo2"], 100)
    shown["fio2"] = np.clip(np.round(shown["fio2"] / 0.05) * 0.05, 0.21, 1)
    values = np.stack([shown[name] for name in FEATURE_NAMES], axis=1)
    values = np.round(values / _UNIT) * _UNIT
    return values.clip(_LOWEST, HIGH)


_LOWEST = LOW.copy()
_UNIT = np.full(N_FEATURES, 0.1, np.float32)
for _name, _unit in {
    "heart_rate": 1, "sysbp": 1, "diabp": 1, "meanbp": 1, "resp_rate": 1, "spo2": 1, "fio2": 0.01,
    "alt": 1, "ast": 1, "base_excess": 1, "bicarbonate": 1, "bun": 1, "calcium_free": 0.01,
    "chloride": 1, "glucose": 1, "paco2": 1, "pao2": 1, "ph": 0.01, "platelet": 1, "sodium": 1,
    "total_co2": 1, "gcs_eye": 1, "gcs_verbal": 1, "gcs_motor": 1, "output_4hourly": 1,
}.items():  # fmt: skip
    _UNIT[FEATURE_INDEX[_name]] = _unit
for _name, _low in {"inr": 0.8, "albumin": 1.2, "platelet": 4, "sysbp": 40, "diabp": 15}.items():
    _LOWEST[FEATURE_INDEX[_name]] = _low


# ------------------------------------------------------------------------------ what is measured

_GROUP_OF = {
    "temp_c": 1, "fio2": 2, "gcs_eye": 3, "gcs_verbal": 3, "gcs_motor": 3, "hemoglobin": 5,
    "hematocrit": 5, "platelet": 5, "wbc": 5, "inr": 6, "pt": 6, "ptt": 6, "alt": 7, "ast": 7,
    "bilirubin_total": 7, "albumin": 8, "base_excess": 9, "paco2": 9, "pao2": 9, "ph": 9,
    "total_co2": 9, "lactate": 10, "calcium_free": 11, "output_4hourly": 12,
}  # fmt: skip
_VITALS = ("heart_rate", "sysbp", "diabp", "meanbp", "resp_rate", "spo2")
GROUP = np.array(
    [0 if name in _VITALS else _GROUP_OF.get(name, 4) for name in FEATURE_NAMES], np.int64
)
"""Which features are measured together: 0 monitor, 4 chemistry, 5 blood count, 9 blood gas, ..."""


def measured(
    body: Body, instruments: Instruments, hour: float | Column, chance: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """[n, 39] what is measured in this hour; sicker patients are measured more.

    Args:
        body: n bodies.
        instruments: Which tests each is ever given.
        hour: Time, h from ICU admission; one for all or [n].
        chance: [13, n] uniform.
    """
    n = len(body)
    supported = (body.vasopressor > 0) | (body.ventilated > 0)
    pace = np.where(supported, 1.35, 0.65) * np.where(hour < 4, 1.6, 1)
    clock = (instruments.clock + hour) % 24
    rounds = np.where((clock >= 4) & (clock < 5), 4.0, 0.87)  # the morning's draw
    tested = instruments.tested.T
    rates = np.stack(
        [
            np.full(n, 0.985),
            np.full(n, 0.44),
            np.where(body.ventilated > 0, 0.40, np.where(body.fio2 > 0.45, 0.25, 0.05)),
            np.full(n, 0.34),
            0.085 * rounds * np.where(hour < 4, 1.8, 1),
            0.085 * rounds * np.where(hour < 4, 1.8, 1),
            0.064 * rounds * tested[0],
            0.048 * rounds * tested[1],
            0.026 * rounds * tested[2],
            0.100 * pace * tested[3],
            0.090 * pace * tested[4],
            0.070 * pace * tested[3],
            np.where((tested[5] > 0) | supported, 0.97, 0.20),
        ]
    )
    drawn = chance < rates
    return drawn[GROUP].T
