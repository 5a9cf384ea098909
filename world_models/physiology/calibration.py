"""Numbers fitted once on a cohort under ordinary care (``fit_layer.py``), then frozen."""

LAYER: dict[str, tuple[float, float, bool]] = {
    "heart_rate": (-3.6028, 1.0826, False),
    "resp_rate": (-1.6282, 1.0568, False),
    "albumin": (-1.1778, 1.4018, False),
    "alt": (-0.5764, 1.0568, True),
    "ast": (-0.7897, 1.147, True),
    "bicarbonate": (-7.3032, 1.2881, False),
    "bilirubin_total": (-0.3057, 1.3628, True),
    "bun": (-0.6565, 1.1865, True),
    "calcium_free": (-0.2148, 1.192, False),
    "calcium_total": (-0.1089, 1.009, False),
    "chloride": (-19.7262, 1.188, False),
    "creatinine": (-0.0137, 1.1264, True),
    "glucose": (-0.4486, 1.0906, True),
    "hemoglobin": (-0.1908, 0.9709, False),
    "inr": (-0.3322, 1.4157, True),
    "magnesium": (-0.1841, 1.0739, False),
    "pao2": (-2.5539, 1.5119, True),
    "platelet": (0.232, 0.96, True),
    "potassium": (0.1744, 0.9518, False),
    "ptt": (-1.7388, 1.4156, True),
    "sodium": (-25.4458, 1.1839, False),
    "wbc": (0.3261, 0.8501, True),
}
"""Shift, scale and whether on the log scale, by feature."""

GCS_CUTS: dict[str, tuple[float, ...]] = {
    "eye": (-0.173, 0.941, 1.626),
    "verbal": (-0.821, 0.121, 0.352, 0.889),
    "motor": (0.432, 1.249, 2.266, 2.633, 2.767),
}
"""Where consciousness loses a point."""
