"""The stay so far as a picture: what ``rgb_array`` and ``human`` rendering show."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.dynamics import End
from sepsis_gym.envs.episode import EpisodeState
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.preprocessing import HORIZON_HOURS, Preprocessing

try:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError('matplotlib is missing: pip install "sepsis-gym[figures]"') from error

FRAME_SHAPE = (840, 1120, 3)
"""Height, width and colours of every frame."""
_DOTS_PER_INCH = 100
_BLACK, _BLUE, _GREEN, _ORANGE, _SKY, _PURPLE, _GREY = (
    "#222222", "#0072B2", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#EDEDED",
)  # fmt: skip
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titley": 1.0,  # where it would be anyway; searching for it takes a third of the time
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "axes.facecolor": "white",
    "axes.edgecolor": _BLACK,
    "axes.labelcolor": _BLACK,
    "text.color": _BLACK,
    "xtick.color": _BLACK,
    "ytick.color": _BLACK,
}
_LAYOUT: Any = {
    "left": 0.05, "right": 0.985, "top": 0.92, "bottom": 0.09, "hspace": 0.34, "wspace": 0.17,
}  # fmt: skip
_KEY = (
    "Dots: measured. Dotted: carried forward. Grey ground: ventilated. Dashed: MAP 65 mmHg, "
    "lactate 2 mmol/L. Research software, never for patient care."
)
_MAP_GOAL_MMHG, _LACTATE_GOAL_MMOL_L = 65, 2
_LEAST_TOP = {"lactate": 4.0, "urine": 500.0, "sofa": 12.0, "fluid": 500.0, "vasopressor": 0.3}
"""Where these axes end at the least, so that a quiet stay does not look like a storm."""


def stay_frame(history: Sequence[EpisodeState], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The picture of one stay as an array of ``FRAME_SHAPE``, by a canvas of its own.

    Args:
        history: The one patient's states, first to present.
        preprocessing: The clock, and how long measurements hold.
    """
    figure = Figure(figsize=_inches(), dpi=_DOTS_PER_INCH)
    canvas: Any = FigureCanvasAgg(figure)
    draw_stay(figure, history, preprocessing)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def draw_stay(
    figure: Figure, history: Sequence[EpisodeState], preprocessing: Preprocessing
) -> None:
    """Draws eight panels over one clock: what was seen, and beneath it what was given.

    A state stands at the end of the hours it summarises, a dose over the hours in which it was
    given.
    """
    figure.set_facecolor("white")
    with matplotlib.rc_context(_STYLE):
        # by hand: one size only, and solving for a layout would take most of the time
        axes = figure.subplots(4, 2, sharex=True, gridspec_kw=_LAYOUT)
        course = _Course(history, preprocessing)
        panels = (_pressure, _heart_rate, _oxygen, _lactate, _urine, _sofa, _treatment, _mortality)
        for axis, panel in zip(axes.flat, panels, strict=True):
            panel(axis, course)
            axis.locator_params(axis="y", nbins=5)
            course.ground(axis)
        ticks = np.arange(0, course.last_hour + 1, 12)
        axes[0, 0].set(xlim=(0, course.last_hour + 1), xticks=ticks)
        for axis in axes[-1]:
            axis.set_xlabel("Hours from ICU admission")
        left = _LAYOUT["left"]
        figure.text(left, 0.965, course.headline(), fontsize=12, weight="bold")
        figure.text(left, 0.012, _KEY, fontsize=8.5, color="#555555")


class StayWindow:
    """A window that keeps up with the stay."""

    def __init__(self, figure: Figure) -> None:
        """Wraps a figure of pyplot's."""
        self._figure = figure

    @classmethod
    def open(cls) -> Self | None:
        """Opens a window; None where matplotlib's backend has none or there is no screen."""
        from matplotlib import pyplot

        try:
            figure = pyplot.figure(figsize=_inches(), dpi=_DOTS_PER_INCH)
        except ImportError:  # the backend of the user's choice does not load without a screen
            return None
        if figure.canvas.required_interactive_framework is None:
            pyplot.close(figure)
            return None
        return cls(figure)

    def show(self, history: Sequence[EpisodeState], preprocessing: Preprocessing) -> None:
        """Draws the stay anew."""
        from matplotlib import pyplot

        self._figure.clear()
        draw_stay(self._figure, history, preprocessing)
        self._figure.canvas.draw_idle()
        pyplot.pause(0.001)  # lets the window draw itself

    def close(self) -> None:
        """Closes the window."""
        from matplotlib import pyplot

        pyplot.close(self._figure)


class _Course:
    """The stay as arrays over its T states."""

    def __init__(self, history: Sequence[EpisodeState], preprocessing: Preprocessing) -> None:
        patients = [state.patients for state in history]
        self.step_hours = preprocessing.step_hours
        self.last_hour = HORIZON_HOURS + self.step_hours
        self.hours = np.array([(p.step[0] + 1) * self.step_hours for p in patients], float)
        age = np.concatenate([p.age for p in patients])
        self._measured = age == 0
        values = np.concatenate([p.values for p in patients])
        self._values = np.where(preprocessing.known(age), values, np.nan)
        self.sofa = np.array([state.sofa[0] for state in history])
        self.risk = np.array([state.mortality_90d[0] for state in history], float)
        self.fluid = np.array([p.previous_fluid_ml[0] for p in patients])
        self.dose = np.array([p.previous_norepinephrine_equivalent[0] for p in patients])
        self._ventilated = np.array([p.ventilated[0] for p in patients])
        self._present = history[-1]

    def feature(self, name: str) -> NDArray[np.floating]:
        """[T] values as far as they are known, else NaN."""
        return self._values[:, FEATURE_INDEX[name]]

    def trace(self, axis: Any, name: str, color: str, factor: float = 1) -> None:
        """A feature's measurements, and what was carried forward from them."""
        value, measured = factor * self.feature(name), self._measured[:, FEATURE_INDEX[name]]
        axis.plot(self.hours, value, color=color, lw=1, ls=":")
        seen = np.where(measured, value, np.nan)  # covers the dots between two measurements
        axis.plot(self.hours, seen, color=color, lw=1.3, marker="o", ms=4)

    def ground(self, axis: Any) -> None:
        """Grey while ventilated; a line where the stay ended."""
        spans = [(hour - self.step_hours, self.step_hours) for hour in self.hours[self._ventilated]]
        full_height = axis.get_xaxis_transform()
        axis.broken_barh(spans, (0, 1), transform=full_height, color=_GREY, lw=0, zorder=0)
        if self._present.end[0] != End.ONGOING:
            axis.axvline(self.hours[-1], color=_BLACK, lw=1, ls=":")

    def headline(self) -> str:
        """Who the patient is and how things stand."""
        age, male, charlson = self._present.patients.static[0]
        parts = [
            f"{age:.0f}-year-old {'man' if male else 'woman'}, Charlson {charlson:.0f}",
            f"hour {self.hours[-1]:.0f}",
            f"SOFA {self.sofa[-1]}",
        ]
        if self._ventilated[-1]:
            parts.append("ventilated")
        end = End(self._present.end[0])
        if end != End.ONGOING:
            parts.append(end.name.lower().replace("_", " "))
        if self._present.died_90d[0] >= 0:
            parts.append(f"{'dead' if self._present.died_90d[0] else 'alive'} at 90 days")
        return "   |   ".join(parts)


def _pressure(axis: Any, course: _Course) -> None:
    axis.set_title("Mean arterial pressure, mmHg (bars: diastolic to systolic)", loc="left")
    systolic, diastolic = course.feature("sysbp"), course.feature("diabp")
    axis.vlines(course.hours, diastolic, systolic, color=_SKY, lw=3, alpha=0.45)
    axis.axhline(_MAP_GOAL_MMHG, color=_ORANGE, lw=1, ls="--")
    course.trace(axis, "meanbp", _BLACK)
    _at_least(axis, 40, 120)


def _heart_rate(axis: Any, course: _Course) -> None:
    axis.set_title("Heart rate, bpm", loc="left")
    course.trace(axis, "heart_rate", _BLACK)
    _at_least(axis, 50, 130)


def _oxygen(axis: Any, course: _Course) -> None:
    axis.set_title("SpO2, %", loc="left", color=_BLUE)
    axis.set_title("FiO2, %", loc="right", color=_ORANGE)
    course.trace(axis, "spo2", _BLUE)
    course.trace(axis, "fio2", _ORANGE, factor=100)
    axis.set_ylim(15, 105)


def _lactate(axis: Any, course: _Course) -> None:
    axis.set_title("Lactate, mmol/L", loc="left")
    axis.axhline(_LACTATE_GOAL_MMOL_L, color=_ORANGE, lw=1, ls="--")
    course.trace(axis, "lactate", _BLACK)
    _from_zero(axis, "lactate")


def _urine(axis: Any, course: _Course) -> None:
    axis.set_title("Urine, mL per 4 h", loc="left")
    _bars(axis, course, np.nan_to_num(course.feature("output_4hourly")), _SKY)
    _from_zero(axis, "urine")


def _sofa(axis: Any, course: _Course) -> None:
    axis.set_title("SOFA", loc="left")
    axis.plot(course.hours, course.sofa, color=_PURPLE, lw=1.4, marker="o", ms=4)
    _from_zero(axis, "sofa")
    axis.locator_params(axis="y", integer=True)


def _treatment(axis: Any, course: _Course) -> None:
    axis.set_title(f"Fluid, mL per {course.step_hours} h", loc="left", color=_GREEN)
    _bars(axis, course, course.fluid, _GREEN)
    _from_zero(axis, "fluid")
    other = axis.twinx()
    other.set_title("Norepinephrine equivalent, µg/kg/min", loc="right", color=_BLUE)
    other.stairs(course.dose, _edges(course), color=_BLUE, lw=1.8, baseline=None)
    other.spines["right"].set_visible(True)
    other.grid(visible=False)
    _from_zero(other, "vasopressor")


def _mortality(axis: Any, course: _Course) -> None:
    axis.set_title("Predicted 90-day mortality, %", loc="left")
    known = course.risk >= 0
    axis.plot(course.hours[known], 100 * course.risk[known], color=_BLACK, lw=1.4, marker="o", ms=4)
    axis.set_ylim(0, 100)


def _bars(axis: Any, course: _Course, height: NDArray[np.floating], color: str) -> None:
    middle, width = course.hours - course.step_hours / 2, 0.84 * course.step_hours
    axis.bar(middle, height, width=width, color=color, alpha=0.7)


def _edges(course: _Course) -> NDArray[np.float64]:
    return np.append(course.hours[0] - course.step_hours, course.hours)


def _from_zero(axis: Any, name: str) -> None:
    axis.set_ylim(0, max(1.08 * axis.dataLim.y1, _LEAST_TOP[name]))


def _at_least(axis: Any, low: float, high: float) -> None:
    bottom, top = axis.get_ylim()
    axis.set_ylim(min(bottom, low), max(top, high))


def _inches() -> tuple[float, float]:
    height, width, _ = FRAME_SHAPE
    return width / _DOTS_PER_INCH, height / _DOTS_PER_INCH
