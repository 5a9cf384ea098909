import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from sepsis_gym.cohort.assemble import AssemblyConfig, RawCohort, assemble, split_of
from sepsis_gym.errors import (
    ConfigError,
    EmptyCohortError,
    SchemaError,
    SourceError,
    TrajectoryError,
    UnknownNameError,
)
from sepsis_gym.features import FEATURE_INDEX, FEATURE_NAMES, N_FEATURES, TYPICAL
from sepsis_gym.preprocessing import NEVER, Preprocessing
from sepsis_gym.trajectories import Trajectories

HR, LACTATE = FEATURE_INDEX["heart_rate"], FEATURE_INDEX["lactate"]


def built(raw_cohort, **settings):
    return assemble(raw_cohort, AssemblyConfig(**settings), source="test", credentialed=False)


def test_causal_alignment_pairs_a_state_with_the_next_bins_doses(trajectories, raw_cohort):
    for at in range(len(trajectories)):
        rows = slice(trajectories.offsets[at], trajectories.offsets[at + 1])
        np.testing.assert_array_equal(
            trajectories.fluid_ml[rows][:-1], raw_cohort.fluid_ml[rows][1:]
        )
        np.testing.assert_array_equal(
            trajectories.previous_fluid_ml[rows], raw_cohort.fluid_ml[rows]
        )
        assert np.isnan(trajectories.fluid_ml[rows][-1])
        assert trajectories.action[rows][-1] == -1


def test_same_window_pairs_state_and_action_of_one_bin(raw_cohort):
    same = built(raw_cohort, alignment="same_window")
    decision = same.is_decision
    np.testing.assert_array_equal(same.fluid_ml[decision], raw_cohort.fluid_ml[decision])
    assert (same.previous_fluid_ml[same.offsets[:-1]] == 0).all()
    later = np.flatnonzero(same.step > 0)
    np.testing.assert_array_equal(same.previous_fluid_ml[later], raw_cohort.fluid_ml[later - 1])


def test_values_are_measured_then_held_then_filled(trajectories, raw_cohort):
    raw, measured = raw_cohort.raw, ~np.isnan(raw_cohort.raw)
    np.testing.assert_array_equal(trajectories.measured, measured)
    np.testing.assert_array_equal(trajectories.values[measured], raw[measured])
    preprocessing = trajectories.preprocessing
    for feature in (HR, LACTATE):
        hold = preprocessing.hold_steps[feature]
        for at in range(len(trajectories)):
            last, age = preprocessing.fill[feature], NEVER
            for row in range(trajectories.offsets[at], trajectories.offsets[at + 1]):
                age = 0 if measured[row, feature] else min(age + 1, NEVER)
                last = raw[row, feature] if measured[row, feature] else last
                expected = last if age <= hold else preprocessing.fill[feature]
                assert trajectories.values[row, feature] == np.float32(expected)
                assert trajectories.age[row, feature] == age


def test_what_was_known_before_admission_is_held_from_the_first_step(raw_cohort):
    shape = (len(raw_cohort.stays["stay_id"]), N_FEATURES)
    before = np.full(shape, np.nan, np.float32)
    before_age = np.full(shape, NEVER, np.int16)
    before[:, LACTATE], before_age[:, LACTATE] = 3.5, 2  # 8 h ago; lactate holds for 24 h
    raw = raw_cohort.raw.copy()
    raw[raw_cohort.offsets[:-1], LACTATE] = np.nan
    trajectories = built(replace(raw_cohort, raw=raw, before=before, before_age=before_age))
    first = trajectories.offsets[:-1]
    assert (trajectories.values[first, LACTATE] == np.float32(3.5)).all()
    assert (trajectories.age[first, LACTATE] == 2).all()
    assert not trajectories.measured[first, LACTATE].any()
    second = first + 1
    held = np.isnan(raw[second, LACTATE])
    assert (trajectories.age[second, LACTATE] == np.where(held, 3, 0)).all()
    assert (trajectories.age[first, HR] != 2).all()
    before_age[:, LACTATE] = 7  # 28 h ago
    trajectories = built(replace(raw_cohort, raw=raw, before=before, before_age=before_age))
    fill = np.float32(trajectories.preprocessing.fill[LACTATE])
    assert (trajectories.values[first, LACTATE] == fill).all()


def test_scales_of_imputed_values_are_narrower_and_fill_values_the_same(raw_cohort):
    measured, imputed = built(raw_cohort), built(raw_cohort, scale_on="imputed")
    assert imputed.preprocessing.fill == measured.preprocessing.fill
    z = imputed.preprocessing.standardize(imputed.values)
    train = (imputed.stays.split == "train")[imputed.stay_of_row]
    np.testing.assert_allclose(z[train].mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(z[train].std(0), 1, rtol=1e-3)
    assert not np.allclose(imputed.preprocessing.scale, measured.preprocessing.scale, rtol=1e-3)


def test_fill_scale_and_edges_come_from_the_training_split_only(raw_cohort):
    whole = built(raw_cohort)
    test_rows = np.isin(whole.stay_of_row, np.flatnonzero(whole.stays.split != "train"))
    raw = raw_cohort.raw.copy()
    raw[test_rows] = np.where(np.isnan(raw[test_rows]), np.nan, TYPICAL)
    fluid = np.where(test_rows, 5000, raw_cohort.fluid_ml).astype(np.float32)
    changed = built(replace(raw_cohort, raw=raw, fluid_ml=fluid))
    assert changed.preprocessing == whole.preprocessing


def test_splits_follow_patients_and_ignore_the_company(trajectories):
    subjects = trajectories.stays.subject_id
    names = split_of(subjects, AssemblyConfig())
    np.testing.assert_array_equal(names, trajectories.stays.split)
    np.testing.assert_array_equal(names[10:20], split_of(subjects[10:20], AssemblyConfig()))
    shares = split_of(np.arange(20_000), AssemblyConfig())
    assert np.mean(shares == "test") == pytest.approx(0.2, abs=0.01)
    assert np.mean(shares == "train") == pytest.approx(0.7, abs=0.01)


def test_terminal_rewards_follow_90_day_mortality(trajectories):
    last = trajectories.terminated
    died = trajectories.stays.died_90d[trajectories.stay_of_row[last]]
    np.testing.assert_array_equal(trajectories.reward[last], np.where(died, -15, 15))
    assert last.sum() == len(trajectories)


def test_save_and_load_keep_everything(trajectories, tmp_path):
    trajectories.save(tmp_path / "cohort")
    loaded = Trajectories.load(tmp_path / "cohort")
    assert loaded.content_hash == trajectories.content_hash
    assert loaded.preprocessing == trajectories.preprocessing
    np.testing.assert_array_equal(loaded.observations(), trajectories.observations())
    trajectories.save(tmp_path / "again")
    for name in ("steps.parquet", "stays.parquet", "manifest.json"):
        one, two = tmp_path / "cohort" / name, tmp_path / "again" / name
        assert one.read_bytes() == two.read_bytes()
    steps = pq.read_table(tmp_path / "cohort" / "steps.parquet").column_names
    assert {"stay_id", "step", "sofa", "ventilated", "action", "reward", "terminated"} <= set(steps)
    assert {*FEATURE_NAMES, *(f"{name}_measured" for name in FEATURE_NAMES)} <= set(steps)


def test_loading_what_is_broken_says_what_and_where(trajectories, tmp_path):
    with pytest.raises(SourceError, match=r"manifest\.json: no such file"):
        Trajectories.load(tmp_path)
    trajectories.save(tmp_path)
    steps = pq.read_table(tmp_path / "steps.parquet")
    pq.write_table(steps.drop_columns(["lactate"]), tmp_path / "steps.parquet")
    with pytest.raises(SchemaError, match=r"steps.parquet: column 'lactate'"):
        Trajectories.load(tmp_path)
    trajectories.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"content_hash": "0"}))
    with pytest.raises(TrajectoryError, match="hash"):
        Trajectories.load(tmp_path)
    del manifest["flow"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SchemaError, match="'flow' is missing"):
        Trajectories.load(tmp_path)
    trajectories.save(tmp_path)
    (tmp_path / "stays.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(SourceError, match="cannot be read"):
        Trajectories.load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("source", 1),
        ("credentialed", "no"),
        ("content_hash", None),
        ("config", []),
        ("flow", {"all": 12}),
        ("flow", [["all"]]),
        ("flow", [["all", "twelve"]]),
        ("notes", [1]),
        ("notes", {"a": "b"}),
        ("preprocessing", "4 h"),
        ("preprocessing", {}),
        ("preprocessing", {"step_hours": 3}),
        ("preprocessing", {"action_bins": []}),
        ("preprocessing", {"fill": ["a"] * 39}),
        ("preprocessing", {"scale": 1.0}),
    ],
)
def test_a_manifest_of_wrong_types_names_file_and_key(trajectories, tmp_path, key, value):
    trajectories.save(tmp_path)
    file = tmp_path / "manifest.json"
    manifest = json.loads(file.read_text())
    if value and key == "preprocessing" and isinstance(value, dict):
        value = manifest[key] | value
    file.write_text(json.dumps(manifest | {key: value}))
    with pytest.raises(SchemaError, match=rf"manifest\.json: '{key}'.*build the cohort again"):
        Trajectories.load(tmp_path)


def test_a_manifest_that_is_no_object_or_lacks_a_key_is_told(trajectories, tmp_path):
    trajectories.save(tmp_path)
    file = tmp_path / "manifest.json"
    manifest = json.loads(file.read_text())
    for key in ("source", "credentialed", "content_hash", "preprocessing", "config", "notes"):
        file.write_text(json.dumps({k: v for k, v in manifest.items() if k != key}))
        with pytest.raises(SchemaError, match=rf"manifest\.json: '{key}' is missing"):
            Trajectories.load(tmp_path)
    file.write_text("[]")
    with pytest.raises(SchemaError, match=r"manifest\.json: holds no JSON object"):
        Trajectories.load(tmp_path)
    file.write_text('{"source": "cut sh')
    with pytest.raises(SourceError, match="cannot be read"):
        Trajectories.load(tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("action", 25, "action must be 0 to 24"),
        ("reward", np.nan, "reward must be a finite"),
        ("fluid_ml", -1, "fluid_ml must be zero or more"),
        ("norepinephrine_equivalent", np.inf, "norepinephrine_equivalent must be zero or more"),
        ("terminated", True, "last decision only"),
    ],
)
def test_validate_names_the_first_offending_row(trajectories, column, value, message):
    spoilt = getattr(trajectories, column).copy()
    spoilt[trajectories.offsets[4] + 1] = value
    stay = trajectories.stays.stay_id[4]
    with pytest.raises(TrajectoryError, match=f"stay {stay}, step 1: .*{message}"):
        replace(trajectories, **{column: spoilt}).validate()


def test_validate_finds_impossible_values_and_split_patients(trajectories):
    values = trajectories.values.copy()
    values[trajectories.offsets[2], LACTATE] = -1
    with pytest.raises(TrajectoryError, match="stay 3, step 0: lactate"):
        replace(trajectories, values=values).validate()
    split = trajectories.stays.split.copy()
    split[0] = "test" if split[0] == "train" else "train"
    with pytest.raises(TrajectoryError, match="subject 100 has stays in two splits"):
        replace(trajectories, stays=replace(trajectories.stays, split=split)).validate()


def test_an_empty_cohort_is_an_error(raw_cohort):
    nothing = RawCohort(
        stays={name: column[:0] for name, column in raw_cohort.stays.items()},
        offsets=np.zeros(1, np.int64),
        raw=np.zeros((0, N_FEATURES), np.float32),
        **{
            name: getattr(raw_cohort, name)[:0]
            for name in ("ventilated", "fluid_ml", "norepinephrine_equivalent", "sofa_24h")
        },
    )
    with pytest.raises(EmptyCohortError, match="no stay is left"):
        built(nothing)
    with pytest.raises(ConfigError, match="room for training"):
        AssemblyConfig(test_share=0.95)


def test_splits_select_and_padding(trajectories):
    with pytest.raises(UnknownNameError, match="train, validation, test"):
        trajectories.split("holdout")
    test = trajectories.split("test")
    assert set(test.stays.split) == {"test"}
    padded = test.padded(test.reward)
    assert padded.shape == test.mask.shape
    assert padded.sum() == pytest.approx(test.reward[test.is_decision].sum())
    np.testing.assert_array_equal(test.mask.sum(1), test.n_decisions)
    with_final = test.padded(test.values, np.nan, final=True)
    for at in range(len(test)):
        np.testing.assert_array_equal(
            with_final[at, test.n_decisions[at]], test.values[test.offsets[at + 1] - 1]
        )


def test_d3rlpy_and_pandas_exports(trajectories):
    pytest.importorskip("d3rlpy", reason="the offline extra is not installed")
    dataset = trajectories.to_d3rlpy()
    assert len(dataset.episodes) == len(trajectories)
    assert dataset.transition_count == trajectories.n_decisions.sum()
    first = dataset.episodes[0]
    np.testing.assert_array_equal(first.actions[:, 0], trajectories.action[: len(first.actions)])
    frame = trajectories.to_pandas()
    assert len(frame) == trajectories.offsets[-1]


@pytest.mark.parametrize("step_hours", [1, 2, 8])
def test_other_clocks(raw_cohort, step_hours):
    short = built(raw_cohort, step_hours=step_hours)
    assert short.preprocessing.max_steps == 72 // step_hours
    assert short.preprocessing.hold_steps[HR] == 8 // step_hours


def test_preprocessing_round_trips(trajectories):
    preprocessing = trajectories.preprocessing
    restored = Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict())))
    assert restored == preprocessing
    values = trajectories.values[:100]
    back = preprocessing.restore(preprocessing.standardize(values))
    np.testing.assert_allclose(back, values, rtol=2e-4, atol=1e-3)
    with pytest.raises(ConfigError, match="step_hours"):
        replace(preprocessing, step_hours=3)
