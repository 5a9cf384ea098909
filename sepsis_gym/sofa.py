"""SOFA (Vincent et al. 1996) as MIT-LCP/mimic-code scores it; the one implementation.

Cohort building feeds it the worst values of each hour, the environments feed it the state of a
step. A missing input scores 0.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sepsis_gym.features import FEATURE_INDEX, N_FEATURES

COMPONENTS: tuple[str, ...] = (
    "respiration",
    "coagulation",
    "liver",
    "cardiovascular",
    "cns",
    "renal",
)


_CUTS: dict[str, tuple[Literal["<", ">=", ">"], tuple[float, ...]]] = {
    "pao2_fio2": ("<", (400, 300, 200, 100)),
    "platelet": ("<", (150, 100, 50, 20)),
    "bilirubin_total": (">=", (1.2, 2, 6, 12)),
    "meanbp": ("<", (70,)),
    "norepinephrine": (">", (0, 0.1)),
    "dopamine": (">", (0, 5, 15)),
    "dobutamine": (">", (0,)),
    "gcs": ("<", (15, 13, 10, 6)),
    "creatinine": (">=", (1.2, 2, 3.5, 5)),
    "urine_24h": ("<", (500, 200)),
}
"""What a value is compared with; :func:`_organs` turns the number of cuts passed into points."""
_MOST_UNVENTILATED = 2
_STATE_INPUTS = (
    "pao2", "fio2", "platelet", "bilirubin_total", "meanbp", "gcs_eye", "gcs_verbal", "gcs_motor",
    "creatinine", "output_4hourly",
)  # fmt: skip
STATE_INPUTS_AT = np.array([FEATURE_INDEX[name] for name in _STATE_INPUTS])
"""The features that :func:`state_sofa` reads."""
# An untestable verbal response (intubation) is taken as normal, as mimic-code does.
_IF_UNKNOWN = np.array([5.0 if n == "gcs_verbal" else np.nan for n in _STATE_INPUTS], np.float32)


def sofa_components(
    *,
    pao2_fio2: ArrayLike,
    ventilated: ArrayLike,
    platelet: ArrayLike,
    bilirubin_total: ArrayLike,
    meanbp: ArrayLike,
    norepinephrine: ArrayLike,
    dopamine: ArrayLike = 0.0,
    dobutamine: ArrayLike = 0.0,
    gcs: ArrayLike,
    creatinine: ArrayLike,
    urine_24h: ArrayLike,
) -> NDArray[np.int8]:
    """Scores the six organ systems.

    Args:
        pao2_fio2: Arterial PaO2 / FiO2, mmHg.
        ventilated: Whether invasively ventilated; 3 and 4 respiratory points need it.
        platelet: K/uL.
        bilirubin_total: mg/dL.
        meanbp: mmHg.
        norepinephrine: Norepinephrine or epinephrine, the higher rate, ug/kg/min.
        dopamine: ug/kg/min.
        dobutamine: ug/kg/min.
        gcs: Total Glasgow coma score, 3-15.
        creatinine: mg/dL.
        urine_24h: mL per 24 h.

    Returns:
        [..., 6] points 0-4 in the order of ``COMPONENTS``; NaN inputs score 0.
    """
    parts = _organs(
        _count, np.minimum, np.maximum, np.asarray(ventilated, bool),
        pao2_fio2=pao2_fio2, platelet=platelet, bilirubin_total=bilirubin_total, meanbp=meanbp,
        norepinephrine=norepinephrine, dopamine=dopamine, dobutamine=dobutamine, gcs=gcs,
        creatinine=creatinine, urine_24h=urine_24h,
    )  # fmt: skip
    return np.stack(np.broadcast_arrays(*parts), axis=-1).astype(np.int8)


def _organs(
    count: Callable[[str, Any], Any],
    least: Callable[[Any, Any], Any],
    most: Callable[[Any, Any], Any],
    ventilated: Any,
    **inputs: Any,
) -> tuple[Any, ...]:
    """The score's one rule, for arrays and for the plain numbers of one patient alike.

    Args:
        count: How many cuts of a named input its value passes; none if it is missing.
        least: Minimum of two.
        most: Maximum of two.
        ventilated: Whether invasively ventilated.
        inputs: As :func:`sofa_components` names them; those left out are not given.

    Returns:
        Points in the order of ``COMPONENTS``.
    """
    passed = {name: count(name, value) for name, value in inputs.items()}
    norepinephrine, urine = passed["norepinephrine"], passed["urine_24h"]
    circulation = most(passed["meanbp"], norepinephrine + 2 * (norepinephrine > 0))
    if "dopamine" in passed:
        dopamine, dobutamine = passed["dopamine"], passed["dobutamine"]
        circulation = most(circulation, most(dopamine + (dopamine > 0), 2 * dobutamine))
    return (
        least(passed["pao2_fio2"], _MOST_UNVENTILATED + 2 * ventilated),
        passed["platelet"],
        passed["bilirubin_total"],
        circulation,
        passed["gcs"],
        most(passed["creatinine"], urine + 2 * (urine > 0)),
    )


def _count(name: str, value: ArrayLike) -> NDArray[np.int64]:
    """How many cuts each value passes."""
    given = np.asarray(value)
    if given.dtype.kind != "f":
        given = given.astype(np.float64)
    below, cuts = _SORTED[name]
    # NaN sorts behind every number, so that it passes no cut
    left = np.array(cuts, given.dtype).searchsorted(
        given if below else -given, "left" if _CUTS[name][0] == ">=" else "right"
    )
    return len(cuts) - left


def _count_one(name: str, value: np.float32) -> int:
    """:func:`_count` of one float32."""
    given = float(value)
    if given != given:
        return 0
    below, cuts, bisect = _SORTED_FLOAT32[name]
    return len(cuts) - bisect(cuts, given if below else -given)


_SORTED = {
    name: (side == "<", tuple(sorted(cut if side == "<" else -cut for cut in cuts)))
    for name, (side, cuts) in _CUTS.items()
}
"""Whether low values score, and the cuts in rising order, negated where high values score."""
_SORTED_FLOAT32 = {
    name: (
        below,
        tuple(np.array(cuts, np.float32).tolist()),
        bisect_left if _CUTS[name][0] == ">=" else bisect_right,
    )
    for name, (below, cuts) in _SORTED.items()
}


def state_sofa(
    values: NDArray[np.floating],
    known: NDArray[np.bool_],
    ventilated: NDArray[np.bool_],
    norepinephrine_equivalent: NDArray[np.floating],
) -> NDArray[np.int8]:
    """Total SOFA of states, from what the bedside knows at that step.

    Differs on purpose from the hourly 24-h score of mimic-code: it is the score of this step's
    (carried-forward) values, counts all vasopressors as norepinephrine equivalents, and scales
    the step's urine to 24 h, so that logged and simulated states are scored alike and the reward
    sees an improvement when it happens.

    Args:
        values: [..., 39] features in clinical units.
        known: [..., 39] whether each was measured within its hold time; others score 0.
        ventilated: [...] invasively ventilated.
        norepinephrine_equivalent: [...] dose running during the step, ug/kg/min.

    Returns:
        [...] total score, 0-24.
    """
    if values.size == N_FEATURES:  # one patient: plain numbers are several times faster
        dose = np.asarray(norepinephrine_equivalent, np.float32).item()
        seen = _seen(values, known).ravel()
        parts = _state_organs(_count_one, min, max, seen, bool(ventilated), dose)
        return np.full(values.shape[:-1], sum(parts), np.int8)
    return sum(_state_parts(values, known, ventilated, norepinephrine_equivalent)).astype(np.int8)


def state_sofa_components(
    values: NDArray[np.floating],
    known: NDArray[np.bool_],
    ventilated: NDArray[np.bool_],
    norepinephrine_equivalent: NDArray[np.floating],
) -> NDArray[np.int8]:
    """[..., 6] the points that :func:`state_sofa` adds up, in the order of ``COMPONENTS``."""
    parts = _state_parts(values, known, ventilated, norepinephrine_equivalent)
    return np.stack(np.broadcast_arrays(*parts), axis=-1).astype(np.int8)


def _seen(values: NDArray[np.floating], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[..., 10] the inputs in the order of ``STATE_INPUTS_AT``, NaN where unknown."""
    at = STATE_INPUTS_AT
    seen = np.where(known.take(at, -1), values.take(at, -1), _IF_UNKNOWN)
    return seen.astype(np.float32, copy=False)


def _state_parts(
    values: NDArray[np.floating],
    known: NDArray[np.bool_],
    ventilated: NDArray[np.bool_],
    norepinephrine_equivalent: NDArray[np.floating],
) -> tuple[NDArray[np.int64], ...]:
    columns = np.ascontiguousarray(np.moveaxis(_seen(values, known), -1, 0))
    dose = np.asarray(norepinephrine_equivalent, np.float32)
    return _state_organs(_count, np.minimum, np.maximum, columns, np.asarray(ventilated), dose)


def _state_organs(
    count: Callable[[str, Any], Any],
    least: Callable[[Any, Any], Any],
    most: Callable[[Any, Any], Any],
    seen: NDArray[np.float32],
    ventilated: Any,
    dose: Any,
) -> tuple[Any, ...]:
    """:func:`_organs` of the ten inputs of a state, each an array or a number."""
    pao2, fio2, platelet, bilirubin, meanbp, eye, verbal, motor, creatinine, urine = seen
    return _organs(
        count, least, most, ventilated,
        pao2_fio2=pao2 / fio2, platelet=platelet, bilirubin_total=bilirubin, meanbp=meanbp,
        norepinephrine=dose, gcs=eye + verbal + motor, creatinine=creatinine,
        urine_24h=6.0 * urine,
    )  # fmt: skip
