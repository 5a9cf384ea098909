"""Validity beside real tables, such as the open MIMIC-IV demo: transfer, parity, no copies."""

from collections.abc import Iterator
from dataclasses import replace

import duckdb
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, cross_val_predict

from sepsis_gym.cohort.items import item_rows
from sepsis_gym.cohort.mimic_folder import locate
from sepsis_gym.cohort.tables import header
from sepsis_gym.features import FEATURE_INDEX, FEATURE_NAMES, FEATURES
from sepsis_gym.trajectories import Trajectories
from world_models.physiology.validity.checks import Check, at_least, at_most
from world_models.physiology.validity.written import Built

VITALS = ("heart_rate", "sysbp", "diabp", "meanbp", "resp_rate", "spo2")
FOLDS, FOLDINGS = 5, 4
_EVENTS = ("chartevents", "labevents", "inputevents", "outputevents", "procedureevents")
_MEASURED_WITHIN = 0.10
_FEWEST_VITALS = 4
Values = NDArray[np.float64]


def beside_real(synthetic: Built, real: Built) -> Iterator[Check]:
    """All tests that need real tables."""
    yield from told_apart(synthetic.cohort, real.cohort)
    yield from transfer(synthetic.cohort, real.cohort)
    yield from parity(synthetic, real)
    yield copies(synthetic.cohort, real.cohort)


def not_run() -> Iterator[Check]:
    """The same tests where there are no real tables."""
    for number, name in (
        (2, "a classifier of bins of vitals, synthetic or real"),
        (19, "next vitals predicted from synthetic patients, beside real ones"),
        (20, "the same build on real tables"),
        (21, "synthetic rows that equal a real one"),
    ):
        yield Check(number, name, "", "", None, "needs real tables: --mimic-demo FOLDER")


# ---------------------------------------------------------------------------------- test 2


def told_apart(synthetic: Trajectories, real: Trajectories) -> Iterator[Check]:
    """Test 2: boosted trees tell a synthetic bin of vitals from a real one of unseen patients."""
    (mine, _, whose), (theirs, _, subject) = _pairs(synthetic), _pairs(real)
    if len(np.unique(subject)) < FOLDS:
        yield Check(2, "bins of vitals told apart", "", "", None, _few(subject))
        return
    groups = np.concatenate([-whose, subject])  # ids of two sources may be the same numbers
    name = "AUROC of telling bins of vitals apart"
    yield at_most(2, name, _told_apart(mine, theirs, groups), 0.80)
    mine, theirs = _scaled(mine), _scaled(theirs)
    matched = at_most(
        2, f"{name}, means and spreads matched", _told_apart(mine, theirs, groups), 0.70
    )
    column = VITALS.index("spo2")  # matching moves its ceiling, and trees see that
    without = _told_apart(np.delete(mine, column, 1), np.delete(theirs, column, 1), groups)
    bins = f"{len(theirs)} bins of {len(np.unique(subject))} real patients"
    yield replace(matched, reason=f"{without:.2f} without spo2; {bins}")


def _told_apart(mine: Values, theirs: Values, groups: NDArray[np.int64]) -> float:
    """Mean over foldings, which with few patients differ."""
    origin = np.repeat([0, 1], [len(mine), len(theirs)])
    classifier = HistGradientBoostingClassifier(
        max_leaf_nodes=8, class_weight="balanced", early_stopping=False, random_state=0
    )
    areas = []
    for seed in range(FOLDINGS):
        chance = cross_val_predict(
            classifier,
            np.concatenate([mine, theirs]),
            origin,
            groups=groups,
            cv=StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed),
            method="predict_proba",
        )[:, 1]
        areas.append(roc_auc_score(origin, chance))
    return float(np.mean(areas))


def _scaled(values: Values) -> Values:
    return np.asarray((values - values.mean(0)) / values.std(0))


def _few(subject: NDArray[np.int64]) -> str:
    return f"{len(np.unique(subject))} real patients are fewer than {FOLDS} folds"


# ---------------------------------------------------------------------------------- test 19


def transfer(synthetic: Trajectories, real: Trajectories) -> Iterator[Check]:
    """Test 19: one predictor of the next bin's vitals, trained on either, judged on the real."""
    before, after, subject = _pairs(real)
    if len(np.unique(subject)) < FOLDS:
        yield Check(19, "next vitals from synthetic patients", "", "", None, _few(subject))
        return
    mean, sd = before.mean(0), before.std(0)
    before, after = (before - mean) / sd, (after - mean) / sd
    learned = [(part - mean) / sd for part in _pairs(synthetic)[:2]]
    model = Ridge(alpha=1.0)
    folds = GroupKFold(FOLDS)
    at_home = _error(cross_val_predict(model, before, after, groups=subject, cv=folds), after)
    abroad = _error(model.fit(*learned).predict(before), after)
    persistent = _error(before, after)
    name = "error of the next 6 vitals, trained on synthetic"
    yield at_most(19, f"{name} / on real patients", abroad / at_home, 1.05, 3)
    yield Check(
        19,
        f"{name}, below persistence",
        f"below {persistent:.3f} sd",
        f"{abroad:.3f} sd",
        bool(abroad < persistent),
        f"{at_home:.3f} sd trained on real ones; {len(after)} pairs of bins of "
        f"{len(np.unique(subject))} real patients",
    )


def _pairs(cohort: Trajectories) -> tuple[Values, Values, NDArray[np.int64]]:
    """[k, 6] vitals of a bin and of the next, all measured, and [k] whose."""
    columns = [FEATURE_INDEX[name] for name in VITALS]
    whole = cohort.measured[:, columns].sum(1) == len(columns)
    first = np.flatnonzero(cohort.is_decision)
    first = first[whole[first] & whole[first + 1]]
    values = cohort.values[:, columns].astype(np.float64)
    return values[first], values[first + 1], cohort.stays.subject_id[cohort.stay_of_row[first]]


def _error(predicted: Values, actual: Values) -> float:
    return float(np.abs(predicted - actual).mean())


# ---------------------------------------------------------------------------------- test 20


def parity(synthetic: Built, real: Built) -> Iterator[Check]:
    """Test 20: one build, two sources."""
    yield _columns(synthetic, real)
    yield _ranges(synthetic.cohort, real.cohort)
    yield _measured(synthetic.cohort, real.cohort)
    yield _items(synthetic, real)
    yield _survival(synthetic)
    septic = [_sepsis3(part.cohort) for part in (synthetic, real)]
    yield Check(
        20,
        "Sepsis-3 stays, synthetic and real",
        "some in both",
        f"{septic[0]}, {septic[1]}",
        min(septic) > 0,
    )


def _sepsis3(cohort: Trajectories) -> int:
    return len(cohort) - cohort.manifest.notes["stays_by_fallback"]


def _columns(synthetic: Built, real: Built) -> Check:
    mine, theirs = (locate(part.tables) for part in (synthetic, real))
    other = [name for name in mine if header(mine[name]) != header(theirs[name])]
    total = len(mine)
    same = f"{total - len(other)} of {total}"
    what = "tables with the real ones' columns"
    return Check(20, what, f"{total} of {total}", same, not other, ", ".join(other))


def _ranges(synthetic: Trajectories, real: Trajectories) -> Check:
    """Either median inside the other's range: the units are the same."""
    far = []
    for index, feature in enumerate(FEATURES):
        one, other = (part.values[part.measured[:, index], index] for part in (synthetic, real))
        if not (len(one) and len(other)):
            far.append(f"{feature.name} never measured")
        elif not (_central(one, other) and _central(other, one)):
            medians = f"{np.median(one):.3g} for {np.median(other):.3g} {feature.unit}"
            far.append(f"{feature.name} {medians}")
    total = len(FEATURES)
    return Check(
        20,
        "features with either median in the other's 1-99% range",
        f"{total} of {total}",
        f"{total - len(far)} of {total}",
        not far,
        ", ".join(far),
    )


def _central(values: NDArray[np.floating], others: NDArray[np.floating]) -> bool:
    low, high = np.quantile(others, (0.01, 0.99))
    return bool(low <= np.median(values) <= high)


def _measured(synthetic: Trajectories, real: Trajectories) -> Check:
    """The error of a real share is that between stays, of which a demo has few."""
    one, other = synthetic.measured.mean(0), real.measured.mean(0)
    by_stay = np.add.reduceat(real.measured, real.offsets[:-1], axis=0) / (
        real.n_decisions[:, None] + 1
    )
    error = by_stay.std(0) / np.sqrt(len(real))
    off = [
        f"{name} {one[i]:.2f} for {other[i]:.2f} (SE {error[i]:.2f})"
        for i, name in enumerate(FEATURE_NAMES)
        if abs(one[i] - other[i]) > _MEASURED_WITHIN
    ]
    total = len(FEATURE_NAMES)
    return Check(
        20,
        "features measured in as many 4-h bins, within 0.10",
        f"{total} of {total}",
        f"{total - len(off)} of {total}",
        not off,
        ", ".join(off),
    )


def _items(synthetic: Built, real: Built) -> Check:
    """Items that the build reads of real septic stays."""
    known = {(table, item): role for table, item, role, _, _ in item_rows()}
    seen = _seen_items(real) & known.keys()
    missing = sorted(seen - _seen_items(synthetic))
    return Check(
        20,
        "items of real septic stays that the synthetic tables hold",
        f"{len(seen)} of {len(seen)}",
        f"{len(seen) - len(missing)} of {len(seen)}",
        not missing,
        ", ".join(f"{item} ({known[table, item]})" for table, item in missing),
    )


def _seen_items(part: Built) -> set[tuple[str, int]]:
    seen: set[tuple[str, int]] = set()
    for table in _EVENTS:
        rows = _rows(part, table, "SELECT DISTINCT itemid FROM {rows}")
        seen |= {(table, item) for (item,) in rows}
    return seen


def _rows(part: Built, table: str, query: str) -> list[tuple[int, ...]]:
    """Runs a query over the rows that the build read of the cohort's stays."""
    key = "subject_id" if table == "labevents" else "stay_id"
    with duckdb.connect() as connection:
        connection.register("whose", {"id": getattr(part.cohort.stays, key)})
        path = str(part.cache / f"{table}.parquet").replace("'", "''")
        rows = f"read_parquet('{path}') WHERE {key} IN (SELECT id FROM whose)"
        return connection.execute(query.format(rows=rows)).fetchall()


def _survival(synthetic: Built) -> Check:
    """Numbers of dynamic features; what is no number was never a measurement."""
    notes = synthetic.cohort.manifest.notes
    total = 0
    for table, items in (
        ("chartevents", [item for feature in FEATURES for item in feature.chart_items]),
        ("labevents", [item for feature in FEATURES for item in feature.lab_items]),
    ):
        listed = ", ".join(map(str, items))
        query = f"SELECT count(valuenum) FROM {{rows}} AND itemid IN ({listed})"
        ((n,),) = _rows(synthetic, table, query)
        total += n
    lost = notes["chart_rows_out_of_range"] + notes["lab_rows_out_of_range"]
    return at_least(20, "synthetic rows within range, share", 1 - lost / total, 0.95, 4)


# ---------------------------------------------------------------------------------- test 21


def copies(synthetic: Trajectories, real: Trajectories) -> Check:
    """Test 21: bins of four vitals or more that equal a real one to a tenth."""
    theirs = _rounded(real)
    same = [row for row in _rounded(synthetic) if row in theirs]
    return Check(
        21,
        "synthetic rows that equal a real one (vitals to a tenth)",
        "none",
        f"{len(same)}",
        not same,
    )


def _rounded(cohort: Trajectories) -> set[tuple[float | None, ...]]:
    columns = [FEATURE_INDEX[name] for name in VITALS]
    measured = cohort.measured[:, columns]
    kept = measured.sum(1) >= _FEWEST_VITALS
    rows, known = cohort.values[:, columns][kept].round(1).tolist(), measured[kept].tolist()
    return {
        tuple(value if there else None for value, there in zip(*row, strict=True))
        for row in zip(rows, known, strict=True)
    }
