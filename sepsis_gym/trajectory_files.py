"""Trajectories on disk: a folder of ``steps.parquet``, ``stays.parquet``, ``manifest.json``."""

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sepsis_gym.errors import SchemaError, SourceError, TrajectoryError
from sepsis_gym.features import FEATURE_NAMES
from sepsis_gym.files import whole_folder
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.trajectories import ROW_ARRAYS, Manifest, StayTable, Trajectories

FORMAT_VERSION = 2
_MANIFEST_KEYS = (
    "source",
    "credentialed",
    "content_hash",
    "preprocessing",
    "config",
    "flow",
    "notes",
)


def write_folder(
    trajectories: Trajectories,
    folder: str | os.PathLike[str],
    beside: Mapping[str, pa.Table] | None = None,
) -> None:
    """Writes the folder whole or not at all, with other tables of the same build beside it."""
    with whole_folder(folder) as temporary:
        for name, table in (beside or {}).items():
            pq.write_table(table, temporary / f"{name}.parquet", compression="zstd")
        pq.write_table(step_table(trajectories), temporary / "steps.parquet", compression="zstd")
        pq.write_table(_stay_table(trajectories), temporary / "stays.parquet", compression="zstd")
        (temporary / "manifest.json").write_text(json.dumps(_manifest_json(trajectories), indent=1))


def read_folder(folder: str | os.PathLike[str]) -> Trajectories:
    """Reads a folder written by :func:`write_folder`.

    Raises:
        SourceError: A file is missing or unreadable.
        SchemaError: A column is missing.
        TrajectoryError: The content is not what the manifest says.
    """
    path = Path(folder)
    for name in ("manifest.json", "steps.parquet", "stays.parquet"):
        if not (path / name).is_file():
            raise SourceError(f"{path / name}: no such file; is {path} a cohort folder?")
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        steps = pq.read_table(path / "steps.parquet")
        stays = pq.read_table(path / "stays.parquet")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
    if manifest.get("format_version") != FORMAT_VERSION:
        raise SchemaError(
            f"{path / 'manifest.json'}: format_version {manifest.get('format_version')} "
            f"is not {FORMAT_VERSION}; build the cohort again"
        )
    for key in _MANIFEST_KEYS:
        if key not in manifest:
            raise SchemaError(f"{path / 'manifest.json'}: {key!r} is missing")
    return _from_tables(path, steps, stays, manifest)


def _from_tables(
    path: Path, steps: pa.Table, stays: pa.Table, manifest: dict[str, Any]
) -> Trajectories:
    def column(table: pa.Table, file: str, name: str) -> NDArray[Any]:
        if name not in table.column_names:
            raise SchemaError(f"{path / file}: column {name!r} is missing")
        return table[name].to_numpy()

    def stacked(suffix: str, dtype: type) -> NDArray[Any]:
        names = [name + suffix for name in FEATURE_NAMES]
        columns = [column(steps, "steps.parquet", name) for name in names]
        return np.stack(columns, axis=1).astype(dtype)

    arrays: dict[str, Any] = {
        "values": stacked("", np.float32),
        "age": stacked("_age", np.int16),
    }
    for name in ROW_ARRAYS[2:]:
        arrays[name] = column(steps, "steps.parquet", name).copy()
    per_stay = {f.name: column(stays, "stays.parquet", f.name) for f in fields(StayTable)}
    per_stay["split"] = per_stay["split"].astype(np.str_)
    counts = column(stays, "stays.parquet", "n_decisions") + 1
    kept = {key: manifest[key] for key in ("source", "credentialed", "config", "notes")}
    loaded = Trajectories(
        stays=StayTable(**{name: array.copy() for name, array in per_stay.items()}),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        manifest=Manifest(
            preprocessing=Preprocessing.from_dict(manifest["preprocessing"]),
            flow=tuple((rule, count) for rule, count in manifest["flow"]),
            **kept,
        ),
        **arrays,
    )
    if loaded.content_hash != manifest["content_hash"]:
        raise TrajectoryError(f"{path}: content differs from the hash in manifest.json")
    return loaded


def step_table(trajectories: Trajectories) -> pa.Table:
    """The step table: one row per stay and step, final states included."""
    columns: dict[str, NDArray[Any]] = {
        "stay_id": trajectories.stays.stay_id[trajectories.stay_of_row],
        "step": trajectories.step,
    }
    for index, name in enumerate(FEATURE_NAMES):
        columns[name] = trajectories.values[:, index]
        columns[f"{name}_age"] = trajectories.age[:, index]
        columns[f"{name}_measured"] = trajectories.measured[:, index]  # age 0, for readers
    for name in ROW_ARRAYS[2:]:
        columns[name] = getattr(trajectories, name)
    return pa.table(columns)


def _stay_table(trajectories: Trajectories) -> pa.Table:
    columns = {f.name: getattr(trajectories.stays, f.name) for f in fields(StayTable)}
    columns["split"] = columns["split"].tolist()
    return pa.table({**columns, "n_decisions": trajectories.n_decisions})


def _manifest_json(trajectories: Trajectories) -> dict[str, Any]:
    manifest = trajectories.manifest
    return {
        "format_version": FORMAT_VERSION,
        "source": manifest.source,
        "credentialed": manifest.credentialed,
        "n_stays": len(trajectories),
        "n_decisions": int(trajectories.n_decisions.sum()),
        "content_hash": trajectories.content_hash,
        "preprocessing": manifest.preprocessing.to_dict(),
        "config": manifest.config,
        "flow": [list(entry) for entry in manifest.flow],
        "notes": manifest.notes,
    }
