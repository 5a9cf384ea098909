"""SOFA (Vincent et al. 1996) as MIT-LCP/mimic-code scores it; the one implementation.

Cohort building feeds it the worst values of each hour, the environments feed it the state of a
step. A missing input scores 0.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sepsis_gym.features import FEATURE_INDEX

COMPONENTS: tuple[str, ...] = (
    "respiration",
    "coagulation",
    "liver",
    "cardiovascular",
    "cns",
    "renal",
)


def _below(value: ArrayLike, cuts: tuple[float, ...]) -> NDArray[np.int8]:
    """Points for low values: one per cut that the value lies strictly below."""
    known = np.asarray(value, dtype=np.float64)[..., None]
    with np.errstate(invalid="ignore"):
        return (known < np.array(cuts)).sum(-1, dtype=np.int8)


def _from(value: ArrayLike, cuts: tuple[float, ...]) -> NDArray[np.int8]:
    """Points for high values: one per cut that the value reaches."""
    known = np.asarray(value, dtype=np.float64)[..., None]
    with np.errstate(invalid="ignore"):
        return (known >= np.array(cuts)).sum(-1, dtype=np.int8)


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
    ratio_points = _below(pao2_fio2, (400.0, 300.0, 200.0, 100.0))
    respiration = np.where(np.asarray(ventilated, bool), ratio_points, np.minimum(ratio_points, 2))
    # comparisons with NaN are False, so a missing rate scores nothing
    cardiovascular = np.where(
        np.greater(dopamine, 15) | np.greater(norepinephrine, 0.1),
        4,
        np.where(
            np.greater(dopamine, 5) | np.greater(norepinephrine, 0),
            3,
            np.where(
                np.greater(dopamine, 0) | np.greater(dobutamine, 0), 2, _below(meanbp, (70.0,))
            ),
        ),
    )
    oliguria = _below(urine_24h, (500.0, 200.0))
    urine_points = np.where(oliguria > 0, oliguria + 2, 0)
    renal = np.maximum(_from(creatinine, (1.2, 2.0, 3.5, 5.0)), urine_points)
    parts = (
        respiration,
        _below(platelet, (150.0, 100.0, 50.0, 20.0)),
        _from(bilirubin_total, (1.2, 2.0, 6.0, 12.0)),
        cardiovascular,
        _below(gcs, (15.0, 13.0, 10.0, 6.0)),
        renal,
    )
    return np.stack(np.broadcast_arrays(*parts), axis=-1).astype(np.int8)


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
    parts = state_sofa_components(values, known, ventilated, norepinephrine_equivalent)
    return parts.sum(-1, dtype=np.int8)


def state_sofa_components(
    values: NDArray[np.floating],
    known: NDArray[np.bool_],
    ventilated: NDArray[np.bool_],
    norepinephrine_equivalent: NDArray[np.floating],
) -> NDArray[np.int8]:
    """[..., 6] the points that :func:`state_sofa` adds up, in the order of ``COMPONENTS``."""
    seen = np.where(known, values, np.nan)

    def of(name: str) -> NDArray[np.floating]:
        return seen[..., FEATURE_INDEX[name]]

    # An untestable verbal response (intubation) is taken as normal, as mimic-code does.
    verbal = of("gcs_verbal")
    gcs = of("gcs_eye") + np.where(np.isnan(verbal), 5.0, verbal) + of("gcs_motor")
    return sofa_components(
        pao2_fio2=of("pao2") / of("fio2"),
        ventilated=ventilated,
        platelet=of("platelet"),
        bilirubin_total=of("bilirubin_total"),
        meanbp=of("meanbp"),
        norepinephrine=norepinephrine_equivalent,
        gcs=gcs,
        creatinine=of("creatinine"),
        urine_24h=6.0 * of("output_4hourly"),
    )
