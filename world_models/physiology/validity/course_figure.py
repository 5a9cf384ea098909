"""A picture of four synthetic patients over 72 h; needs matplotlib."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.dynamics import End
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.preprocessing import HORIZON_HOURS
from sepsis_gym.sofa import state_sofa
from world_models.physiology.validity.observed import Seen

MAP_GOAL_MMHG = 65
BLACK, BLUE, GREEN, ORANGE, SKY, GREY = (
    "#222222", "#0072B2", "#009E73", "#D55E00", "#56B4E9", "#E4E4E4",
)  # fmt: skip
_BIN_HOURS = 4
_ROWS = ("MAP\n(mmHg)", "Lactate\n(mmol/L)", "Urine\n(mL/4 h)", "SOFA", "Vasopressor\n(µg/kg/min)",
         "Fluid\n(mL/4 h)")  # fmt: skip


def course_figure(seen: Seen) -> Any:
    """What was charted and given; the ground is grey while a patient is ventilated."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    chosen = four_patients(seen)
    figure = Figure(figsize=(10, 8.4), layout="constrained")
    grid = figure.subplots(
        len(_ROWS),
        len(chosen),
        sharex=True,
        sharey="row",
        squeeze=False,
        gridspec_kw={"height_ratios": [1.5, 1.1, 1, 1, 0.9, 0.9]},
    )
    for column, (patient, title) in enumerate(chosen):
        _course(grid[:, column], seen, patient)
        grid[0, column].set_title(title, loc="left")
        grid[-1, column].set_xlabel("Hours from ICU admission")
    for row, text in enumerate(_ROWS):
        grid[row, 0].set_ylabel(text)
    grid[0, 0].set(xlim=(0, HORIZON_HOURS), xticks=range(0, HORIZON_HOURS + 1, 24))
    for row in (1, 2, 4, 5):
        grid[row, 0].set_ylim(bottom=0)  # once all are drawn: it ends the automatic limits
    handles = [
        Line2D([], [], color=ORANGE, lw=0.8, ls="--", label=f"MAP {MAP_GOAL_MMHG} mmHg"),
        Patch(color=GREY, lw=0, label="Ventilated"),
        Line2D([], [], color=BLACK, lw=0.8, ls=":", label="End of the ICU stay"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.align_ylabels(grid[:, 0])
    return figure


def four_patients(seen: Seen) -> list[tuple[int, str]]:
    """Positions and titles: a typical patient of each of four kinds; of a kind nobody has, none.

    The typical one is of median risk among its kind.
    """
    courses = seen.courses
    dose, hours = courses.dose[:HORIZON_HOURS], courses.end_hour
    given = (dose > 0).any(0)
    died = courses.end == End.DIED
    weaned = (dose[48:] <= 0).all(0)
    last = courses.dose[np.maximum(hours.astype(int) - 1, 0), np.arange(len(hours))]
    ventilated = (courses.flags[:HORIZON_HOURS, :, 0] > 0).mean(0)
    long = hours >= HORIZON_HOURS
    tested = courses.charted[:24, :, FEATURE_INDEX["lactate"]].sum(0) >= 3
    treated = given & tested & (dose.max(0) > 0.15)
    kinds = {
        "No vasopressor": ~given & tested & ~died & (hours > 40) & (hours < HORIZON_HOURS),
        "Shock, reversed": treated & weaned & ~died & long & (ventilated > 0.1),
        "Shock, persisting": treated & ~weaned & ~died & long & (ventilated > 0.6),
        "Refractory shock": treated & died & (hours > 24) & (hours < 60) & (last > 0.3),
    }
    ends = {End.DIED: "died", End.DISCHARGED: "discharged"}
    chosen = []
    for kind, members in kinds.items():
        if members.any():
            member = np.flatnonzero(members)
            typical = member[np.argsort(courses.risk[member])[len(member) // 2]]
            what = ends.get(End(courses.end[typical]))
            over = what is not None and hours[typical] <= HORIZON_HOURS
            end = f"{what} at {hours[typical]:.0f} h" if over else "in the ICU at 72 h"
            chosen.append((int(typical), f"{kind}:\n{end}"))
    return chosen


def _course(axes: NDArray[Any], seen: Seen, patient: int) -> None:
    """One column of the figure."""
    courses = seen.courses
    end = min(courses.end_hour[patient], HORIZON_HOURS)
    hours = np.arange(int(np.ceil(end)))
    flow = courses.bolus_l + courses.carrier_l_h
    tube = courses.flags[hours, patient, 0] > 0
    for axis in axes:
        axis.fill_between(
            np.append(hours, end), 0, 1, np.append(tube, tube[-1:]), step="post", color=GREY,
            lw=0, transform=axis.get_xaxis_transform(), zorder=0,
        )  # fmt: skip
        if end < HORIZON_HOURS:
            axis.axvline(end, color=BLACK, lw=0.8, ls=":")
    pressure, lactate, urine, sofa, dose, fluid = axes
    pressure.axhline(MAP_GOAL_MMHG, color=ORANGE, lw=0.8, ls="--")
    pressure.plot(*_charted(seen, "meanbp", patient, hours), color=BLACK, lw=1.1)
    lactate.plot(*_charted(seen, "lactate", patient, hours), color=ORANGE, lw=0.8, marker="o", ms=4)
    bins = np.arange(int(end // _BIN_HOURS))
    middle = (bins + 0.5) * _BIN_HOURS
    wide = {"width": 0.82 * _BIN_HOURS, "lw": 0}
    urine.bar(
        middle, np.nan_to_num(seen.column("output_4hourly")[patient, bins]), color=SKY, **wide
    )
    scores = _sofa(seen, patient)[bins]
    edges, scores = np.append(bins, len(bins)) * _BIN_HOURS, np.append(scores, scores[-1:])
    sofa.step(edges, scores, color=BLACK, lw=1.3, where="post")
    sofa.set_ylim(0, 24)
    sofa.set_yticks([0, 8, 16, 24])
    dose.fill_between(
        np.append(hours, end), np.append(courses.dose[hours, patient], 0), step="post", color=BLUE,
        lw=0,
    )  # fmt: skip
    volume = [1000 * flow[b * _BIN_HOURS : (b + 1) * _BIN_HOURS, patient].sum() for b in bins]
    fluid.bar(middle, volume, color=GREEN, **wide)


def _charted(
    seen: Seen, name: str, patient: int, hours: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Times in h and values of what was charted of one patient."""
    index = FEATURE_INDEX[name]
    when = hours[seen.courses.charted[hours, patient, index]]
    return when.astype(float), seen.courses.readings[when, patient, index]


def _sofa(seen: Seen, patient: int) -> NDArray[np.int8]:
    """[T] score of each bin, values held within the stay."""
    values = seen.raw[patient].copy()
    for t in range(1, len(values)):
        values[t] = np.where(np.isnan(values[t]), values[t - 1], values[t])
    known = ~np.isnan(values)
    dose = seen.dose[patient, : len(values)]
    return state_sofa(np.nan_to_num(values), known, seen.ventilated[patient], dose)
