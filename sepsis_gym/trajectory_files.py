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
_MANIFEST_TYPES: dict[str, type] = {
    "source": str,
    "credentialed": bool,
    "content_hash": str,
    "preprocessing": dict,
    "config": dict,
    "flow": list,
    "notes": dict,
}


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
        SchemaError: A column is missing, or a key of the manifest, or one holds the wrong type.
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
    _check_manifest(path / "manifest.json", manifest)
    return _from_tables(path, steps, stays, manifest)


def _check_manifest(file: Path, manifest: Any) -> None:
    if not isinstance(manifest, dict):
        raise SchemaError(f"{file}: holds no JSON object; build the cohort again")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise SchemaError(
            f"{file}: format_version {manifest.get('format_version')} is not {FORMAT_VERSION}; "
            "build the cohort again"
        )
    for key, kind in _MANIFEST_TYPES.items():
        if key not in manifest:
            raise SchemaError(f"{file}: {key!r} is missing; build the cohort again")
        if not isinstance(manifest[key], kind):
            raise SchemaError(
                f"{file}: {key!r} must be a {kind.__name__}, is a {type(manifest[key]).__name__}; "
                "build the cohort again"
            )


def _parse_manifest(file: Path, manifest: dict[str, Any]) -> Manifest:
    key = "preprocessing"
    try:
        preprocessing = Preprocessing.from_dict(manifest[key])
        for name in ("fill", "mean", "scale", "static_mean", "static_scale"):
            np.array(getattr(preprocessing, name), np.float64)
        key = "flow"
        flow = tuple((str(rule), int(count)) for rule, count in manifest[key])
        key = "notes"
        notes = {note: int(n) for note, n in manifest[key].items()}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise SchemaError(
            f"{file}: {key!r} is not as it was written ({error}); build the cohort again"
        ) from error
    kept = {name: manifest[name] for name in ("source", "credentialed", "config")}
    return Manifest(preprocessing=preprocessing, flow=flow, notes=notes, **kept)


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
    loaded = Trajectories(
        stays=StayTable(**{name: array.copy() for name, array in per_stay.items()}),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        manifest=_parse_manifest(path / "manifest.json", manifest),
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
