"""Numbers fitted once on a cohort under ordinary care (``fit_layer.py``), then frozen."""

LAYER: dict[str, tuple[float, float, bool]] = {
    "heart_rate": (-3.6018, 1.0825, False),
    "resp_rate": (-1.6275, 1.0568, False),
    "albumin": (-1.1737, 1.4008, False),
    "alt": (-0.5791, 1.0568, True),
    "ast": (-0.7753, 1.1434, True),
    "bicarbonate": (-7.3008, 1.288, False),
    "bilirubin_total": (-0.306, 1.3629, True),
    "bun": (-0.6566, 1.1865, True),
    "calcium_free": (-0.2149, 1.1921, False),
    "calcium_total": (-0.1081, 1.0089, False),
    "chloride": (-19.7313, 1.1881, False),
    "creatinine": (-0.0138, 1.1264, True),
    "glucose": (-0.4486, 1.0906, True),
    "hemoglobin": (-0.1924, 0.9713, False),
    "inr": (-0.3323, 1.4156, True),
    "magnesium": (-0.1841, 1.0739, False),
    "pao2": (-2.5549, 1.5121, True),
    "platelet": (0.2319, 0.9601, True),
    "potassium": (0.1742, 0.9518, False),
    "ptt": (-1.7388, 1.4156, True),
    "sodium": (-25.431, 1.1838, False),
    "wbc": (0.3261, 0.8501, True),
}
"""Shift, scale and whether on the log scale, by feature."""

GCS_CUTS: dict[str, tuple[float, ...]] = {
    "eye": (-0.15, 0.972, 1.644),
    "verbal": (-0.817, 0.176, 0.41, 0.968),
    "motor": (0.465, 1.281, 2.284, 2.651, 2.777),
}
"""Where consciousness loses a point."""
