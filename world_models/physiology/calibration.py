"""Numbers fitted once on a cohort under ordinary care (``fit_layer.py``), then frozen."""

LAYER: dict[str, tuple[float, float, bool]] = {
    "heart_rate": (-3.5959, 1.0825, False),
    "resp_rate": (-1.6123, 1.0557, False),
    "albumin": (-1.1666, 1.3984, False),
    "alt": (-0.589, 1.0574, True),
    "ast": (-0.7643, 1.1421, True),
    "bicarbonate": (-7.2638, 1.2866, False),
    "bilirubin_total": (-0.3117, 1.3651, True),
    "bun": (-0.6579, 1.1868, True),
    "calcium_free": (-0.2149, 1.1922, False),
    "calcium_total": (-0.1103, 1.0092, False),
    "chloride": (-19.8556, 1.1893, False),
    "creatinine": (-0.0139, 1.1268, True),
    "glucose": (-0.4487, 1.0906, True),
    "hemoglobin": (-0.1936, 0.9715, False),
    "inr": (-0.3288, 1.406, True),
    "magnesium": (-0.1839, 1.0737, False),
    "pao2": (-2.5562, 1.5124, True),
    "platelet": (0.2337, 0.9598, True),
    "potassium": (0.1767, 0.9511, False),
    "ptt": (-1.7343, 1.4142, True),
    "sodium": (-25.4934, 1.1843, False),
    "wbc": (0.3256, 0.8503, True),
}
"""Shift, scale and whether on the log scale, by feature."""

GCS_CUTS: dict[str, tuple[float, ...]] = {
    "eye": (-0.15, 0.972, 1.644),
    "verbal": (-0.817, 0.176, 0.41, 0.968),
    "motor": (0.465, 1.28, 2.283, 2.651, 2.777),
}
"""Where consciousness loses a point."""
