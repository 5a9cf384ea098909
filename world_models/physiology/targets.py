"""What published cohorts look like: the numbers the synthetic patients are held against.

Means and deviations are those of the scaler published with SepsisAgent (MIMIC-IV, sepsis, 4-h bins,
after its own imputation); correlations over time, step changes and measurement rates those of 70
stays with intravenous antibiotics in the open MIMIC-IV demo. See docs/synthetic.md.
"""

from typing import NamedTuple


class Target(NamedTuple):
    """One feature: mean and deviation after imputation; lag-1 r and step deviation of 4-h bins.

    The step deviation is that of the logarithm for features of ``LOG_STEP``.
    """

    mean: float
    sd: float
    lag1: float | None
    step_sd: float | None
    measured: float | None


FEATURE_TARGETS: dict[str, Target] = {
    "heart_rate": Target(87.6324, 17.854, 0.87, 8.297, 0.98),
    "sysbp": Target(117.0008, 18.8972, 0.75, 11.031, 0.98),
    "diabp": Target(61.7121, 12.4332, 0.76, 7.689, 0.98),
    "meanbp": Target(77.7791, 13.0472, 0.73, 8.021, 0.98),
    "resp_rate": Target(20.1084, 4.9946, 0.75, 3.024, 0.98),
    "spo2": Target(96.9323, 2.4447, 0.71, 1.729, 0.98),
    "temp_c": Target(37.0047, 0.3521, 0.68, 0.467, 0.9),
    "fio2": Target(0.4754, 0.1524, 0.81, 0.0908, 0.51),
    "gcs_eye": Target(2.9585, 1.184, 0.84, 0.594, 0.81),
    "gcs_verbal": Target(2.6724, 1.8733, 0.92, 0.976, 0.81),
    "gcs_motor": Target(4.9215, 1.7359, 0.84, 0.909, 0.8),
    "albumin": Target(2.8563, 0.3909, None, None, 0.05),
    "alt": Target(95.6485, 315.3066, None, None, 0.11),
    "ast": Target(134.2518, 436.0561, None, None, 0.11),
    "base_excess": Target(3.8422, 1.8717, None, None, None),
    "bicarbonate": Target(23.3901, 4.7414, 0.62, 5.234, 0.34),
    "bilirubin_total": Target(1.6024, 3.1033, None, None, 0.11),
    "bun": Target(29.9102, 22.4216, 0.99, 0.112, 0.34),
    "calcium_free": Target(1.1219, 0.0668, 0.25, 0.1, 0.2),
    "calcium_total": Target(8.2886, 0.7209, 0.78, 0.576, 0.31),
    "chloride": Target(104.0114, 6.5886, 0.73, 6.431, 0.36),
    "creatinine": Target(1.5355, 1.3862, 0.98, 0.154, 0.34),
    "glucose": Target(139.8692, 52.7106, 0.61, 0.362, 0.38),
    "hemoglobin": Target(10.0491, 1.9215, 0.89, 0.942, 0.34),
    "hematocrit": Target(30.6754, 5.6871, None, None, None),
    "inr": Target(1.474, 0.6566, 0.93, 0.108, 0.23),
    "lactate": Target(1.8662, 1.159, 0.9, 0.262, 0.26),
    "magnesium": Target(2.1034, 0.3594, 0.07, 1.471, 0.33),
    "paco2": Target(41.2187, 8.8747, 0.74, 7.31, 0.28),
    "pao2": Target(105.6786, 57.2331, 0.61, 0.485, 0.28),
    "ph": Target(7.3841, 0.0653, 0.81, 0.057, 0.32),
    "platelet": Target(199.2013, 108.4473, 0.94, 0.287, 0.33),
    "potassium": Target(4.1377, 0.5869, 0.76, 0.59, 0.39),
    "pt": Target(16.1398, 6.7661, 0.94, 0.102, 0.23),
    "ptt": Target(38.1381, 19.3204, 0.79, 0.302, 0.24),
    "sodium": Target(138.7301, 5.2113, 0.49, 6.462, 0.36),
    "total_co2": Target(25.2607, 4.9484, None, None, None),
    "wbc": Target(10.177, 4.5195, 0.87, 0.304, 0.32),
    "output_4hourly": Target(4.6582, 2.081, None, None, None),
}
LOG_STEP = (
    "bun",
    "creatinine",
    "glucose",
    "inr",
    "lactate",
    "pao2",
    "platelet",
    "pt",
    "ptt",
    "wbc",
)
CORRELATIONS: dict[tuple[str, str], float] = {
    ("sysbp", "meanbp"): 0.74,
    ("diabp", "meanbp"): 0.91,
    ("pt", "inr"): 1.0,
    ("alt", "ast"): 0.88,
    ("bun", "creatinine"): 0.82,
    ("bicarbonate", "ph"): 0.59,
    ("bicarbonate", "lactate"): -0.59,
    ("lactate", "ph"): -0.43,
    ("chloride", "sodium"): 0.76,
}
"""Of values measured in the same 4-h bin."""
MORTALITY_BY_SOFA = {
    (2, 3): 0.08, (4, 5): 0.11, (6, 7): 0.15, (8, 9): 0.21, (10, 11): 0.28, (12, 14): 0.40,
    (15, 24): 0.62,
}  # fmt: skip
"""90-day death by the worst SOFA of the first day."""
MORTALITY_BY_LACTATE = {(0, 2): 0.12, (2, 4): 0.23, (4, 8): 0.42, (8, 99): 0.68}
"""90-day death by the highest lactate of the first day, mmol/L."""
