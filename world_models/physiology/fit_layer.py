"""Fits the frozen layer and the cuts of the coma score; prints them for ``calibration.py``.

    python -m world_models.physiology.fit_layer

Run only when the body or the bedside changes. The layer is fitted to patients under ordinary care,
seen through the imputation of the published cohort: values carried forward without limit, features
never measured at their published mean.
"""

import sys

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.features import FEATURE_INDEX, FEATURE_NAMES
from world_models.physiology import bedside, calibration
from world_models.physiology.binning import bin_collected, whole_bins
from world_models.physiology.courses import FLAGS, Courses, Streams, admit, clinicians, run
from world_models.physiology.targets import FEATURE_TARGETS

LAYERED: dict[str, bool] = {
    "heart_rate": False, "resp_rate": False, "albumin": False, "alt": True, "ast": True,
    "bicarbonate": False, "bilirubin_total": True, "bun": True, "calcium_free": False,
    "calcium_total": False, "chloride": False, "creatinine": True, "glucose": True,
    "hemoglobin": False, "inr": True, "magnesium": False, "pao2": True,
    "platelet": True, "potassium": False, "ptt": True, "sodium": False, "wbc": True,
}  # fmt: skip
"""Features of the layer, and whether it works on their logarithm. None for pressures, lactate,
urine, oxygen saturation, FiO2 and temperature: their level is the body's own."""
SCALES = (0.6, 1.6)
GCS_SHARES = {
    "eye": (0.50, 0.70, 0.78),
    "verbal": (0.52, 0.80, 0.85, 0.93),
    "motor": (0.62, 0.74, 0.84, 0.87, 0.88),
}
"""Shares of readings at or above each score but the lowest, of everyone, best score first; the
verbal response of those without a tube."""


def reference_imputed(
    raw: NDArray[np.float32], lengths: NDArray[np.integer], ventilated: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """[R, 39] binned values as the published cohort imputes them.

    Args:
        raw: [n, T, 39] binned values, NaN where none.
        lengths: [n] bins of each stay.
        ventilated: [n, T] invasive ventilation: a verbal response of 1 there.
    """
    values = raw.copy()
    verbal = FEATURE_INDEX["gcs_verbal"]
    values[..., verbal] = np.where(ventilated, 1, values[..., verbal])
    excess = FEATURE_INDEX["base_excess"]
    values[..., excess] = np.where(values[..., excess] > 0, values[..., excess], np.nan)
    urine = FEATURE_INDEX["output_4hourly"]
    values[..., urine] = np.log1p(np.nan_to_num(values[..., urine]))
    for t in range(1, values.shape[1]):
        values[:, t] = np.where(np.isnan(values[:, t]), values[:, t - 1], values[:, t])
    means = np.array([FEATURE_TARGETS[name].mean for name in FEATURE_NAMES], np.float32)
    values = np.where(np.isnan(values), means, values)
    return values[np.arange(values.shape[1]) < lengths[:, None]]


def binned(
    courses: Courses, step_hours: int = 4
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """[n, T, 39] means of charted readings, [n] bins, [n, T] ventilated."""
    raw = bin_collected(courses.readings, courses.charted, step_hours)
    tubes = whole_bins(courses.flags[..., FLAGS.index("ventilated")], step_hours)
    lengths = np.minimum(courses.end_hour // step_hours, len(raw)).astype(int)
    return raw.swapaxes(0, 1), lengths, tubes.max(1).T > 0


def simulated(n: int, seed: int, hours: int = 76) -> Courses:
    """Courses of n patients under ordinary care."""
    streams = Streams.of(seed)
    return run(admit(n, streams), clinicians(), hours, streams)


def main(n: int = 3000, rounds: int = 10) -> None:
    """Fits by repeated simulation: each round corrects what the last one missed."""
    calibration.LAYER.update({name: (0.0, 1.0, log) for name, log in LAYERED.items()})
    for round_ in range(rounds):
        values = reference_imputed(*binned(simulated(n, 100 + round_)))
        for name, logarithmic in LAYERED.items():
            target = FEATURE_TARGETS[name]
            shown = values[:, FEATURE_INDEX[name]].astype(np.float64)
            shift, scale, _ = calibration.LAYER[name]
            if logarithmic:
                wanted = target.sd / target.mean / (shown.std() / shown.mean())
                new_scale = float(np.clip(scale * np.clip(wanted, 0.5, 2) ** 0.4, *SCALES))
                middle = np.log(
                    np.maximum(shown, 0.05)
                ).mean()  # kept where it is, then moved by the mean
                new_shift = middle + (shift - middle) * new_scale / scale
                new_shift += np.log(target.mean / shown.mean())
            else:
                new_scale = float(np.clip(scale * target.sd / shown.std(), *SCALES))
                new_shift = target.mean + (shift - shown.mean()) * new_scale / scale
            calibration.LAYER[name] = (round(float(new_shift), 4), round(new_scale, 4), logarithmic)
        print(f"round {round_}", file=sys.stderr)
    print("LAYER = {")
    for name, row in calibration.LAYER.items():
        print(f'    "{name}": {row},')
    print("}")
    print("GCS_CUTS =", fit_gcs(n))


def fit_gcs(n: int) -> dict[str, tuple[float, ...]]:
    """Cuts of consciousness that give the shares of each score."""
    streams = Streams.of(99)
    ward = admit(n, streams)
    seen, awake = [], []
    for hour in range(0, 72, 6):
        run(ward, clinicians(), 6, streams, record=False, leave=False, begin=hour)
        level = bedside.truth(ward.body, ward.people, ward.instruments.offset)["consciousness"]
        error = ward.instruments.error[:, FEATURE_INDEX["gcs_eye"]]
        level = level + bedside.CONSCIOUSNESS_ERROR * error
        seen.append(level)
        awake.append(level[ward.body.ventilated <= 0])
    cuts = {}
    for part, shares in GCS_SHARES.items():
        levels = np.concatenate(awake if part == "verbal" else seen)
        cuts[part] = tuple(round(float(x), 3) for x in np.quantile(levels, shares))
    return cuts


if __name__ == "__main__":
    main()
