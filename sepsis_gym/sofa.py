"""SOFA (Vincent et al. 1996) as MIT-LCP/mimic-code scores it; the one implementation.

Cohort building feeds it the worst values of each hour, the environments feed it the state of a
step. A missing input scores 0.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
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
    "gcs": ("<", (15, 13, 10, 6)),
    "creatinine": (">=", (1.2, 2, 3.5, 5)),
    "urine_24h": ("<", (500, 200)),
    "dopamine": (">", (0, 5, 15)),
    "dobutamine": (">", (0,)),
}
"""What a value is compared with; :func:`organ_points` turns the cuts passed into points."""
_ORDER = tuple(_CUTS)[:8]
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
    inputs = (
        pao2_fio2, platelet, bilirubin_total, meanbp, norepinephrine, gcs, creatinine, urine_24h,
    )  # fmt: skip
    counts = [_count(name, value) for name, value in zip(_ORDER, inputs, strict=True)]
    parts = [*organ_points(np.minimum, np.maximum, np.asarray(ventilated, bool), counts)]
    passed = _count("dopamine", dopamine)
    others = np.maximum(passed + (passed > 0), 2 * _count("dobutamine", dobutamine))
    circulation = COMPONENTS.index("cardiovascular")
    parts[circulation] = np.maximum(parts[circulation], others)
    return np.stack(np.broadcast_arrays(*parts), axis=-1).astype(np.int8)


def organ_points(
    least: Callable[[Any, Any], Any],
    most: Callable[[Any, Any], Any],
    ventilated: Any,
    counts: Sequence[Any] | NDArray[np.int8],
) -> tuple[Any, ...]:
    """The score's one rule, for arrays and for the plain numbers of one patient alike.

    Args:
        least: Minimum of two.
        most: Maximum of two.
        ventilated: Whether invasively ventilated.
        counts: How many cuts each input passes, in the order of ``_ORDER``.

    Returns:
        Points in the order of ``COMPONENTS``, as far as other drugs than norepinephrine add none.
    """
    ratio, platelet, bilirubin, meanbp, norepinephrine, gcs, creatinine, urine = counts
    return (
        least(ratio, _MOST_UNVENTILATED + 2 * ventilated),
        platelet,
        bilirubin,
        most(meanbp, norepinephrine + 2 * (norepinephrine > 0)),
        gcs,
        most(creatinine, urine + 2 * (urine > 0)),
    )


def _count(name: str, value: ArrayLike) -> NDArray[np.int8]:
    """How many cuts each value passes; a missing one passes none."""
    given = np.asarray(value, dtype=np.float64)
    sign, cuts = _below(name, np.float64)
    return np.less((sign * given)[..., None], cuts).sum(-1, dtype=np.int8)


def _below(name: str, dtype: type[np.floating]) -> tuple[int, NDArray[np.floating]]:
    """A sign, and cuts in rising order: a value passes those that it, so signed, lies below."""
    side, listed = _CUTS[name]
    cuts = np.sort(np.array(listed, dtype) * (1 if side == "<" else -1))
    if side == ">=":
        cuts = np.nextafter(cuts, np.array(np.inf, dtype))
    return (1 if side == "<" else -1), cuts


_SIGNED = [_below(name, np.float32) for name in _ORDER]
_SIGN = np.array([sign for sign, _ in _SIGNED], np.float32)[:, None]
_BELOW = np.full((len(_ORDER), max(len(cuts) for _, cuts in _SIGNED), 1), -np.inf, np.float32)
for _row, (_, _cuts) in zip(_BELOW, _SIGNED, strict=True):
    _row[: len(_cuts), 0] = _cuts
_ONE_BY_ONE = tuple((sign, tuple(cuts.tolist())) for sign, cuts in _SIGNED)
CUT_TABLE = (STATE_INPUTS_AT, _IF_UNKNOWN, _SIGN[:, 0], _BELOW[..., 0])
"""For code that goes input by input: where the 10 features stand, what counts if unknown [10], and
of each of :func:`scored_inputs` its sign [8] and the cuts [8, 4] that, so signed, it lies below."""


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
    dose = np.asarray(norepinephrine_equivalent, np.float32)
    if values.size == N_FEATURES:  # one patient: plain numbers are several times faster
        parts = organ_points(min, max, bool(ventilated), _counts_of_one(_seen(values, known), dose))
        return np.array(sum(parts), np.int8).reshape(values.shape[:-1])
    parts = _state_organs(values, known, ventilated, dose)
    return np.add.reduce(parts, dtype=np.int8).reshape(values.shape[:-1])


def state_sofa_components(
    values: NDArray[np.floating],
    known: NDArray[np.bool_],
    ventilated: NDArray[np.bool_],
    norepinephrine_equivalent: NDArray[np.floating],
) -> NDArray[np.int8]:
    """[..., 6] the points that :func:`state_sofa` adds up, in the order of ``COMPONENTS``."""
    dose = np.asarray(norepinephrine_equivalent, np.float32)
    parts = np.stack(_state_organs(values, known, ventilated, dose), axis=-1)
    return parts.astype(np.int8).reshape(*values.shape[:-1], len(COMPONENTS))


def _seen(values: NDArray[np.floating], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[10, N] the inputs in the order of ``STATE_INPUTS_AT``, NaN where unknown."""
    at = STATE_INPUTS_AT
    seen = np.where(known.take(at, -1), values.take(at, -1), _IF_UNKNOWN)
    return seen.reshape(-1, len(at)).T.astype(np.float32, copy=False)


def scored_inputs(seen: Any, dose: Any) -> tuple[Any, ...]:
    """The inputs of the score in the order of ``_ORDER``, each an array or a float32."""
    pao2, fio2, platelet, bilirubin, meanbp, eye, verbal, motor, creatinine, urine = seen
    gcs = eye + verbal + motor
    return pao2 / fio2, platelet, bilirubin, meanbp, dose, gcs, creatinine, _SIX * urine


_SIX = np.float32(6)


def _state_organs(
    values: NDArray[np.floating],
    known: NDArray[np.bool_],
    ventilated: NDArray[np.bool_],
    dose: NDArray[np.float32],
) -> tuple[NDArray[np.int8], ...]:
    """[N] points of each organ."""
    seen = _seen(values, known)
    signed = np.empty((len(_ORDER), seen.shape[1]), np.float32)
    for row, column in zip(signed, scored_inputs(seen, dose.ravel()), strict=True):
        row[:] = column
    signed *= _SIGN
    counts = np.add.reduce(np.less(signed[:, None], _BELOW), 1, dtype=np.int8)
    tube = np.asarray(ventilated, np.int8).ravel()
    return organ_points(np.minimum, np.maximum, tube, counts)


def _counts_of_one(seen: NDArray[np.float32], dose: NDArray[np.float32]) -> list[int]:
    """Cuts passed by the inputs of one patient."""
    counts = []
    for value, (sign, cuts) in zip(
        scored_inputs(seen[:, 0], dose.item()), _ONE_BY_ONE, strict=True
    ):
        number = float(value)
        missing = number != number
        counts.append(0 if missing else len(cuts) - bisect_right(cuts, sign * number))
    return counts
