"""The report's figures, each narrow enough for a phone; needs matplotlib.

Colours are few and fixed, so that the page can swap them for those of a dark screen.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.behavior import BehaviorReport
from evaluation.report.cells import Interval
from evaluation.report.tables import METHODS, interval_of
from evaluation.results import Results, Row
from evaluation.trust import TrustGate
from sepsis_gym.actions import N_ACTIONS, N_LEVELS

try:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
except ImportError as error:
    raise ImportError('matplotlib is missing: pip install "sepsis-gym[report]"') from error

COLORS = {
    "paper": "#ffffff",
    "ink": "#1d2329",
    "soft": "#59636b",
    "faint": "#a3abb2",
    "line": "#dfe3e7",
    "blue": "#0072b2",
    "orange": "#d55e00",
    "green": "#009e73",
}
"""By the name of the page's variable; the hues are of Okabe and Ito's palette."""
_PAPER, _INK, _SOFT, _FAINT, _LINE, _BLUE, _ORANGE, _GREEN = COLORS.values()
_LINES = (_BLUE, _ORANGE, _GREEN, "#cc79a7", "#e69f00", _INK)
_DASHES = ("-", "--", ":", "-.")
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "ytick.labelcolor": _INK,
    "xtick.labelcolor": _INK,
    "legend.frameon": False,
    "figure.facecolor": _PAPER,
    "svg.fonttype": "none",
    "svg.hashsalt": "sepsis-gym",  # the same picture, the same bytes
}
_WIDTH = 4.3
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_REFERENCE = TrustGate.ok_mean_rho


@dataclass(frozen=True)
class Picture:
    """A figure and the words for those who cannot see it."""

    name: str
    alt: str
    figure: Any

    @property
    def svg(self) -> str:
        """One ``svg`` element in the colours of the page around it."""
        out = io.StringIO()
        with matplotlib.rc_context(_STYLE):
            self.figure.savefig(out, format="svg", transparent=True, metadata=_NO_METADATA)
        drawn = out.getvalue()
        drawn = drawn[drawn.index("<svg") :]
        drawn = re.sub(r' id="[a-z]+[\w.]*_\d+"', "", drawn)  # nothing refers to them
        for name, color in COLORS.items():
            drawn = drawn.replace(color, f"var(--{name})")
        return drawn

    @property
    def png(self) -> bytes:
        """The same on white."""
        out = io.BytesIO()
        with matplotlib.rc_context(_STYLE):
            self.figure.savefig(out, format="png", dpi=200)
        return out.getvalue()


def build_pictures(results: Results) -> dict[str, list[Picture]]:
    """All figures that the results can fill, by section of the page."""
    with matplotlib.rc_context(_STYLE):
        return {
            "values": _forests(results.rows),
            "weights": [
                _per_step(
                    "ess_per_step",
                    "Effective sample size",
                    {r.agent: r.weights.ess_per_step for r in results.rows if r.weights},
                ),
                _per_step(
                    "mean_rho_per_step",
                    "Mean cumulative ratio",
                    {r.agent: r.weights.mean_rho_per_step for r in results.rows if r.weights},
                    band=_REFERENCE,
                ),
            ],
            "actions": [_heat_map(row, results.rows[0]) for row in results.rows],
            "behavior": _behavior(results.behavior),
        }


def _new(height: float, width: float = _WIDTH) -> tuple[Any, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _forests(rows: Sequence[Row]) -> list[Picture]:
    """For each estimator the values, then the paired differences, all on two common scales."""
    pictures = []
    limits = [_limits(rows, difference) for difference in (False, True)]
    for method, title in METHODS.items():
        if any(method in row.estimates for row in rows):
            pictures.append(_forest(rows, method, title, limits[0], difference=False))
            pictures.append(_forest(rows, method, title, limits[1], difference=True))
    return pictures


def _limits(rows: Sequence[Row], difference: bool) -> tuple[float, float]:
    """What trusted intervals and nine tenths of the others need; beyond, an arrow points out."""
    shown = {
        row.agent: [interval_of(row, method, difference=difference) for method in METHODS]
        for row in rows
    }
    trusted = [i for row in rows if row.trust != "unusable" for i in shown[row.agent] if i]
    ends = np.array([end for row in rows for i in shown[row.agent] if i for end in (i.low, i.high)])
    ends = ends[np.isfinite(ends)]
    low, high = np.quantile(ends, (0.05, 0.95)) if len(ends) else (-1.0, 1.0)
    low = min([low, 0.0 if difference else low, *(i.low for i in trusted)])
    high = max([high, 0.0 if difference else high, *(i.high for i in trusted)])
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def _forest(
    rows: Sequence[Row], method: str, title: str, limits: tuple[float, float], *, difference: bool
) -> Picture:
    figure, axis = _new(0.75 + 0.24 * len(rows))
    clinicians = interval_of(rows[0], method)
    if difference:
        axis.axvline(0, color=_SOFT, lw=0.8)
    elif clinicians:
        axis.axvspan(clinicians.low, clinicians.high, color=_LINE, lw=0)
        axis.axvline(clinicians.value, color=_SOFT, lw=0.8)
    shown = [
        (y, row, interval_of(row, method, difference=difference)) for y, row in enumerate(rows)
    ]
    for y, row, interval in shown:
        if interval:
            _whisker(axis, y, interval, limits, _color(row), filled=row.trust == "ok")
        if row.truth:
            true = row.truth.difference if difference else row.truth.value
            axis.plot(true.value, y, "D", color=_ORANGE, ms=4, mfc="none", mew=1.2, zorder=4)
    axis.set_yticks(range(len(rows)), [row.agent for row in rows])
    for label, row in zip(axis.get_yticklabels(), rows, strict=True):
        label.set_color(_INK if row.trust == "ok" else _SOFT)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.set(xlim=limits, ylim=(len(rows) - 0.4, -0.6))
    axis.set_title(f"{title} minus clinicians" if difference else title)
    told = "; ".join(f"{row.agent} {_told(interval)}" for _, row, interval in shown if interval)
    kind = "difference" if difference else "values"
    return Picture(f"{kind}_{method}", f"{title}, {kind} by agent: {told}.", figure)


def _color(row: Row) -> str:
    return {"ok": _INK, "caution": _BLUE, "unusable": _FAINT}[row.trust]


def _whisker(
    axis: Any, y: int, shown: Interval, limits: tuple[float, float], color: str, *, filled: bool
) -> None:
    low, high = np.clip((shown.low, shown.high), *limits)
    axis.plot([low, high], [y, y], color=color, lw=1.4, solid_capstyle="butt")
    face = color if filled else _PAPER
    if limits[0] <= shown.value <= limits[1]:
        axis.plot(shown.value, y, "o", color=color, mfc=face, ms=5, zorder=3)
    for beyond, x, marker in (
        (min(shown.low, shown.value) < limits[0], limits[0], "<"),
        (max(shown.high, shown.value) > limits[1], limits[1], ">"),
    ):
        if beyond:
            axis.plot(x, y, marker, color=color, ms=4.5, clip_on=False, zorder=3)


def _told(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _per_step(
    name: str,
    title: str,
    curves: dict[str, Sequence[float]],
    band: tuple[float, float] | None = None,
) -> Picture:
    """Curves over the decisions of a stay on a logarithmic scale."""
    figure, axis = _new(2.7 + 0.17 * -(-len(curves) // 2))
    if band:
        axis.axhspan(*band, color=_LINE, lw=0)
    for number, (agent, values) in enumerate(curves.items()):
        dash = _DASHES[number // len(_LINES) % len(_DASHES)]
        shown = np.where(np.asarray(values) > 0, values, np.nan)
        steps = range(1, len(shown) + 1)
        axis.plot(steps, shown, dash, color=_LINES[number % len(_LINES)], lw=1.5, label=agent)
    axis.set(title=title, xlabel="Decision", yscale="log", xlim=(1, None))
    _plain_numbers(axis)
    if len(curves) > 1:
        figure.legend(loc="outside lower left", ncols=2, fontsize=8)
    told = "; ".join(f"{agent} {values[-1]:.3g}" for agent, values in curves.items())
    return Picture(name, f"{title} by decision of the stay; at the last: {told}.", figure)


def _plain_numbers(axis: Any) -> None:
    """0.1 instead of a power of ten on the logarithmic axis, also where it spans no decade."""
    low, high = axis.get_ylim()
    few = high < 30 * low
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _heat_map(row: Row, clinicians: Row) -> Picture:
    """How often each action is chosen; the shade tells how that differs from the clinicians."""
    own, theirs = (np.reshape(r.action_frequency, (N_LEVELS, N_LEVELS)) for r in (row, clinicians))
    reference = row is clinicians
    shade = own if reference else own - theirs
    strength = 0.75 * np.sqrt(np.abs(shade))  # small shares must be seen beside large ones
    figure, axis = _new(2.3, 2.2)
    for (fluid, vasopressor), alpha in np.ndenumerate(strength):
        color = _BLUE if shade[fluid, vasopressor] > 0 else _ORANGE
        corner = (vasopressor - 0.5, fluid - 0.5)
        axis.add_patch(Rectangle(corner, 1, 1, color=color, alpha=alpha, lw=0))
        text = f"{100 * own[fluid, vasopressor]:.0f}"
        axis.text(vasopressor, fluid, text, ha="center", va="center", fontsize=8)
    axis.set(xlim=(-0.5, 4.5), ylim=(-0.5, 4.5), aspect="equal")
    axis.set(xticks=range(N_LEVELS), yticks=range(N_LEVELS))
    axis.set(xlabel="Vasopressor level", ylabel="Fluid level", title=row.agent)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    most = np.argsort(own.ravel())[::-1][:3]
    told = ", ".join(f"fluid {a // 5} vasopressor {a % 5} {own.ravel()[a]:.0%}" for a in most)
    return Picture(f"actions_{row.agent}", f"Actions of {row.agent}; most often {told}.", figure)


def _behavior(report: BehaviorReport) -> list[Picture]:
    figure, axis = _new(2.9)
    actions = np.arange(N_ACTIONS)
    logged, predicted = (
        100 * np.maximum(values, 1e-4)
        for values in (np.array(report.action_frequency), np.array(report.action_predicted))
    )
    axis.vlines(actions, logged, predicted, color=_FAINT, lw=1.2)
    axis.plot(actions, logged, "o", color=_INK, ms=4, label="logged")
    axis.plot(actions, predicted, "D", color=_ORANGE, mfc="none", ms=5, label="predicted")
    axis.set(yscale="log", xlabel="Action (5 x fluid + vasopressor level)", ylabel="%")
    axis.set(xticks=range(0, N_ACTIONS, N_LEVELS))
    _plain_numbers(axis)
    axis.set_title("How often each action comes")
    figure.legend(loc="outside lower left", ncols=2, fontsize=8)
    gap = float(np.abs(np.subtract(report.action_frequency, report.action_predicted)).max())
    told = f"Logged and predicted share of each of the 25 actions; largest gap {gap:.1%}."
    rho = _per_step(
        "behavior_mean_rho",
        f"Mean cumulative ratio of the model {report.other}",
        {report.other: report.mean_rho_per_step},
        band=_REFERENCE,
    )
    return [Picture("behavior_actions", told, figure), rho, _reliability(report)]


def _reliability(report: BehaviorReport) -> Picture:
    """Logged against predicted probability of all actions, on logarithmic scales."""
    figure, axis = _new(2.9)
    bins = [each for each in report.reliability if each.logged > 0]
    predicted, logged = ([getattr(each, name) for each in bins] for name in ("predicted", "logged"))
    axis.plot([1e-4, 1], [1e-4, 1], color=_FAINT, lw=0.8)
    axis.plot(predicted, logged, "o-", color=_BLUE, ms=4, lw=1.2)
    axis.set(xscale="log", yscale="log", xlabel="Predicted probability", ylabel="Share logged")
    axis.set_title("Is a choice as frequent as predicted?")
    told = "; ".join(f"{each.predicted:.2g} predicted, {each.logged:.2g} logged" for each in bins)
    return Picture("behavior_reliability", f"Reliability of all actions: {told}.", figure)
