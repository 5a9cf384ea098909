"""Pictures of synthetic patients: marginals, persistence, and four courses; needs matplotlib."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.features import FEATURE_NAMES, FEATURES
from world_models.physiology.fit_layer import reference_imputed, simulated
from world_models.physiology.targets import FEATURE_TARGETS, Target
from world_models.physiology.validity.course_figure import course_figure
from world_models.physiology.validity.observed import Seen, persistence

try:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
except ImportError as error:
    raise ImportError('matplotlib is missing: pip install "sepsis-gym[figures]"') from error

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "svg.hashsalt": "sepsis-gym",  # the same picture, the same bytes
}
BLUE, ORANGE, BAND = "#0072B2", "#D55E00", "#E4E4E4"
"""Of the palette of Okabe and Ito, which the colour-blind can tell apart."""
_NAMES = {
    "sysbp": "Systolic pressure",
    "diabp": "Diastolic pressure",
    "meanbp": "Mean pressure",
    "resp_rate": "Respiratory rate",
    "spo2": "SpO2",
    "temp_c": "Temperature",
    "fio2": "FiO2",
    "alt": "ALT",
    "ast": "AST",
    "base_excess": "Base excess above 0",
    "bun": "BUN",
    "calcium_free": "Calcium, ionised",
    "calcium_total": "Calcium, total",
    "bilirubin_total": "Bilirubin",
    "inr": "INR",
    "paco2": "PaCO2",
    "pao2": "PaO2",
    "ph": "pH",
    "pt": "PT",
    "ptt": "PTT",
    "total_co2": "Total CO2",
    "wbc": "White cells",
    "gcs_eye": "GCS eye",
    "gcs_verbal": "GCS verbal",
    "gcs_motor": "GCS motor",
    "output_4hourly": "Urine",
}
_UNITS = {"output_4hourly": "ln mL/4 h", "ph": "", "fio2": "", "inr": "", "temp_c": "°C"}
_GRAINS = {"fio2": 0.05}


def write_figures(folder: Path, n: int, seed: int) -> None:
    """Writes marginals.svg, persistence.svg and patients.svg.

    Args:
        folder: Where to.
        n: Patients to simulate under ordinary care.
        seed: Of theirs.
    """
    seen = Seen(simulated(n, seed))
    with matplotlib.rc_context(STYLE):
        for name, draw in (
            ("marginals", marginals_figure),
            ("persistence", persistence_figure),
            ("patients", course_figure),
        ):
            draw(seen).savefig(folder / f"{name}.svg", metadata={"Date": None})


def label(name: str) -> str:
    """What a feature is called in a picture."""
    return _NAMES.get(name, name.replace("_", " ").capitalize())


def marginals_figure(seen: Seen) -> Figure:
    """A histogram of what was measured; means and deviations as the published cohort imputes."""
    imputed = reference_imputed(seen.raw, seen.lengths, seen.ventilated)
    figure = Figure(figsize=(9.5, 11.5), layout="constrained")
    axes = figure.subplots(8, 5).ravel()
    for index, feature in enumerate(FEATURES):
        measured = seen.column(feature.name)
        measured = measured[~np.isnan(measured)]
        if feature.name == "output_4hourly":
            measured = np.log1p(measured)
        elif feature.name == "base_excess":
            measured = measured[measured > 0]
        target, grain = FEATURE_TARGETS[feature.name], _GRAINS.get(feature.name)
        _marginal(axes[index], measured, imputed[:, index], target, grain or _grain(measured))
        unit = _UNITS.get(feature.name, feature.unit)
        title = label(feature.name) + (f" ({unit})" if unit else "")
        axes[index].set_title(title, loc="left")
    legend = axes[-1]
    legend.axis("off")
    handles = [
        Patch(color=BLUE, alpha=0.35, lw=0, label="Synthetic, measured"),
        Line2D([], [], color=BLUE, marker="o", ms=4, label="Synthetic mean ± SD"),
        Line2D([], [], color=ORANGE, marker="D", ms=4, label="MIMIC-IV mean ± SD"),
    ]
    legend.legend(handles=handles, loc="center left", borderaxespad=0)
    return figure


def _marginal(
    axes: Any,
    measured: NDArray[np.float32],
    imputed: NDArray[np.float32],
    target: Target,
    grain: float,
) -> None:
    low, high = np.quantile(measured, (0.005, 0.975))
    low = max(min(low, target.mean - 1.15 * target.sd), measured.min())
    high = max(high, target.mean + 1.15 * target.sd)
    width = grain * max(1, round((high - low) / 30 / grain))
    edges = np.arange(low // grain * grain - grain / 2, high + width, width)
    counts, _, _ = axes.hist(measured, edges, color=BLUE, alpha=0.35, lw=0)
    top = counts.max()
    for height, mean, sd, colour, marker in (
        (1.14, imputed.mean(), imputed.std(), BLUE, "o"),
        (1.32, target.mean, target.sd, ORANGE, "D"),
    ):
        axes.errorbar(mean, height * top, xerr=sd, color=colour, marker=marker, ms=3.5, lw=1.3)
    axes.set(xlim=edges[[0, -1]], ylim=(0, 1.45 * top))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=4)


def _grain(values: NDArray[np.float32]) -> float:
    """To what most values are rounded: classes of whole grains hold equally many of them."""
    digits = [d for d in (0, 1, 2) if (np.abs(values - values.round(d)) < 1e-4).mean() > 0.6]
    return 10.0 ** -digits[0] if digits else 0.01


def persistence_figure(seen: Seen) -> Figure:
    """Lag-1 correlation of every feature that has a target, and its step beside the demo's."""
    names = [name for name in FEATURE_NAMES if FEATURE_TARGETS[name].lag1 is not None]
    found = np.array([persistence(seen, name) for name in names])
    wanted = np.array([FEATURE_TARGETS[name][2:4] for name in names], float)
    rows = np.arange(len(names))[::-1]
    figure = Figure(figsize=(9.5, 6.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.barh(rows, 0.24, 0.5, wanted[:, 0] - 0.12, color=BAND, lw=0)
    left.plot(wanted[:, 0], rows, color=ORANGE, marker="D", ms=5, ls="", label="MIMIC-IV demo")
    left.plot(found[:, 0], rows, color=BLUE, marker="o", ms=5, ls="", label="Synthetic")
    left.set(xlim=(0, 1.02), xlabel="Lag-1 correlation of 4-h bins")
    left.set_yticks(rows, [label(name) for name in names])
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2)
    right.axvspan(0.65, 1.35, color=BAND, lw=0)
    right.axvline(1, color=ORANGE, lw=1)
    right.plot(found[:, 1] / wanted[:, 1], rows, color=BLUE, marker="o", ms=5, ls="")
    right.set(xscale="log", xlabel="SD of the step between 4-h bins, synthetic / demo")
    ticks = [0.125, 0.25, 0.5, 1, 2]
    right.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    right.set_xticks([], minor=True)
    right.set(xlim=(0.1, 2.2), ylim=(-0.7, len(names) - 0.3))
    for axis in (left, right):
        axis.tick_params(axis="y", length=0)
    return figure
