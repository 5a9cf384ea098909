"""The stages' table over several runs of ``sepsis-gym llm train``, each with a seed of its own.

Usage: python benchmarks/curriculum_seeds.py OUT OUT ...

Means over the runs, and in brackets the lowest and the highest of them. Behind a gain stands in how
many runs its own 95% interval, over the same patients, lies above zero. The third table is of the
off-policy evaluation, in whose log of few stays a policy that differs from the clinicians' has
little support: ESS tells how many stays it rests on.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from evaluation import Results
from evaluation.results import Row

Score = dict[str, Any]
COLUMNS: dict[str, Callable[[Score], Any]] = {
    "value in the world model": lambda score: score["value"],
    "beyond stage before": lambda score: score["value_gained"],
    "true return beyond clinicians": lambda score: score["truth"] and score["truth"]["difference"],
    "beyond stage before ": lambda score: score["truth_gained"],
}

METHODS = ("wpdis", "dr", "fqe")
SHARES: dict[str, Callable[[Row], float]] = {
    "adherence": lambda row: row.safety.adherence,
    "underdose": lambda row: row.safety.underdose.rate,
    "overdose": lambda row: row.safety.overdose.rate,
    "abrupt": lambda row: row.safety.abrupt.rate,
}


def spread(values: Sequence[float | None], spec: str) -> str:
    """Mean, lowest and highest."""
    found = np.array([value for value in values if value is not None])
    if not len(found):
        return "-"
    return f"{found.mean():{spec}} [{found.min():{spec}}, {found.max():{spec}}]"


def gain(measured: Sequence[Any]) -> str:
    """Also how many are told from zero."""
    found = [each for each in measured if each]
    if not found:
        return "-"
    above = sum(each["low"] > 0 for each in found)
    return f"{spread([each['value'] for each in found], '.3f')}, {above} of {len(found)}"


def alike(names: Sequence[str], folders: Sequence[str]) -> str:
    """The name that all runs have at this place."""
    if len(set(names)) > 1:
        raise SystemExit(f"{', '.join(folders)}: not the same in the same order: {set(names)}")
    return names[0]


def main(folders: Sequence[str]) -> None:
    """Prints the tables."""
    missing = [folder for folder in folders if not (Path(folder) / "table/stages.json").is_file()]
    if missing or not folders:
        raise SystemExit(f"no table/stages.json in {', '.join(missing)}" if missing else __doc__)
    runs = [json.loads((Path(folder) / "table/stages.json").read_text()) for folder in folders]
    stages = Table("agent", "valid", "as teacher", *COLUMNS, title=f"{len(runs)} runs")
    for scores in zip(*(run["stages"] for run in runs), strict=True):
        agent = alike([score["agent"] for score in scores], folders)
        shares = [
            spread([score["valid"] for score in scores], ".1%"),
            spread([score["agreement"] if score["valid"] else None for score in scores], ".1%"),
        ]
        told = [gain([of(score) for score in scores]) for of in COLUMNS.values()]
        stages.add_row(agent, *shares, *told)
    known = Table("question", "model", "AUROC", "told from 0.5")
    for scores in zip(*(run["knowledge"] for run in runs), strict=True):
        found = [score["auroc"] for score in scores if score["auroc"]["value"] is not None]
        above = sum(each["low"] > 0.5 for each in found)
        aurocs = spread([each["value"] for each in found], ".2f")
        asked = [
            alike([score[of] for score in scores], folders) for of in ("question", "predictor")
        ]
        known.add_row(*asked, aurocs, f"{above} of {len(found)}")
    scored = Table("policy", "ESS", *map(str.upper, METHODS), *SHARES)
    results = [Results.load(Path(folder) / "table").rows for folder in folders]
    for rows in zip(*results, strict=True):
        ess = [row.weights.ess if row.weights else None for row in rows]
        estimates = [[row.estimates.get(name) for row in rows] for name in METHODS]
        values = [spread([each and each.value for each in told], ".2f") for told in estimates]
        shares = [spread([of(row) for row in rows], ".1%") for of in SHARES.values()]
        policy = alike([row.policy for row in rows], folders)
        scored.add_row(policy, spread(ess, ".0f"), *values, *shares)
    for table in (stages, known, scored):
        Console(width=190).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
