import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from conftest import make_raw_cohort

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
pytest.importorskip("matplotlib", reason="the figures extra is not installed")

from sepsis_gym.cli import main  # noqa: E402
from sepsis_gym.cli.cohort import build_synthetic  # noqa: E402
from sepsis_gym.cohort.assemble import AssemblyConfig, assemble  # noqa: E402
from sepsis_gym.errors import ConfigError, SourceError, SupportError  # noqa: E402
from sepsis_gym.features import FEATURE_INDEX, N_FEATURES  # noqa: E402
from sepsis_gym.registration import SAMPLE_COHORT  # noqa: E402
from sepsis_gym.trajectories import SPLITS, Trajectories  # noqa: E402
from world_models import load_world_model  # noqa: E402
from world_models.card import model_card  # noqa: E402
from world_models.checkpoint import load_provenance  # noqa: E402
from world_models.fidelity import (  # noqa: E402
    coverage_by_feature,
    evaluate_fidelity,
    forecast,
    gaussian_crps,
    score,
)
from world_models.fidelity_figures import reliability  # noqa: E402
from world_models.fidelity_report import ROWS, fidelity_json, fidelity_table  # noqa: E402
from world_models.floor import floor  # noqa: E402
from world_models.forecast import Predictions, in_scales_of  # noqa: E402
from world_models.inputs import VENTILATED_INPUT  # noqa: E402
from world_models.network import MORTALITY, VENTILATION  # noqa: E402
from world_models.physiology import ClinicianConfig  # noqa: E402
from world_models.published import train_published  # noqa: E402
from world_models.references import LinearModel, Persistence  # noqa: E402
from world_models.sequences import Sequences  # noqa: E402
from world_models.straight import fit_straight  # noqa: E402
from world_models.survival import evaluate_survival  # noqa: E402

HEART_RATE = FEATURE_INDEX["heart_rate"]


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "cohort"
    logged = ClinicianConfig(decision_interval_hours=4, exploration=0.3)
    return build_synthetic(out, 90, 3, AssemblyConfig(), logged, tables=False)


def predictions(log, **said):
    """What is said of a log, everything else as it came."""
    rows = np.flatnonzero(log.is_decision)
    truth = log.preprocessing.standardize(log.values[rows + 1]).astype(float)
    known = {"mean": truth, "open_loop": truth, "ventilated": log.ventilated[rows + 1] * 1.0}
    return Predictions.of(len(rows), known | said)


def test_crps_is_that_of_the_closed_form_and_of_samples():
    # at the centre of a standard Gaussian: 2 phi(0) - 1 / sqrt(pi)
    assert gaussian_crps(np.zeros(1), np.ones(1))[0] == pytest.approx(0.2336949, abs=1e-6)
    assert gaussian_crps(np.array([1.0]), np.ones(1))[0] == pytest.approx(0.6024413, abs=1e-6)
    assert gaussian_crps(np.array([2.0]), np.array([2.0]))[0] == pytest.approx(1.2048826, abs=1e-6)
    drawn = np.random.default_rng(0).standard_normal((2, 400_000)) * 0.7
    sampled = np.abs(drawn[0] - 0.4).mean() - 0.5 * np.abs(drawn[0] - drawn[1]).mean()
    assert gaussian_crps(np.array([0.4]), np.array([0.7]))[0] == pytest.approx(sampled, abs=3e-3)


def test_crps_of_a_point_is_its_error():
    error = np.array([0.5, 1.5])
    np.testing.assert_array_equal(gaussian_crps(error, np.array([np.nan, 0.0])), error)


def test_errors_and_coverage_count_measured_values_only(trajectories):
    log = trajectories
    rows = np.flatnonzero(log.is_decision)
    truth = predictions(log).mean
    measured = log.measured[rows + 1]
    off = truth + np.where(measured, 0.5, 99.0)
    scale = np.full(off.shape, 1.0)
    scale[::2] = 0.1  # 0.5 lies outside 1.6449 of these
    numbers = score(predictions(log, mean=off, scale=scale), log, log.preprocessing)
    assert numbers["one_step_mae"] == pytest.approx(0.5, abs=1e-5)
    assert numbers["vitals_mae"] == pytest.approx(0.5, abs=1e-5)
    assert numbers["open_loop_12_mae"] == pytest.approx(0.0, abs=1e-6)
    share = measured[1::2].sum() / measured.sum()
    assert numbers["interval_90_coverage"] == pytest.approx(share)
    covered = coverage_by_feature(predictions(log, mean=off, scale=scale), log, log.preprocessing)
    expected = measured[1::2, HEART_RATE].sum() / measured[:, HEART_RATE].sum()
    assert covered[HEART_RATE] == pytest.approx(expected)


def test_the_open_loop_ends_with_the_twelfth_step(trajectories):
    log = trajectories
    off = predictions(log).mean + 0.25
    off[log.step[log.is_decision] >= 12] = np.nan
    numbers = score(predictions(log, open_loop=off), log, log.preprocessing)
    assert numbers["open_loop_12_mae"] == pytest.approx(0.25, abs=1e-5)
    walked = forecast(Persistence(log.preprocessing), log).open_loop
    assert np.isnan(walked).all(axis=1).tolist() == (log.step[log.is_decision] >= 12).tolist()


def test_perfect_predictions_score_perfectly(synthetic):
    log = synthetic
    died = log.stays.died_90d[log.stay_of_row[log.is_decision]]
    numbers = score(predictions(log, mortality_90d=died * 1.0), log, log.preprocessing)
    assert numbers["sofa_mae"] < 0.1  # consciousness is rounded, a bin may hold half points
    for name in ("ventilation_auroc", "mortality_auroc_at_24h", "mortality_auprc_at_24h"):
        assert numbers[name] == 1
    assert numbers["mortality_brier_at_end"] == 0
    assert math.isnan(numbers["interval_90_coverage"])
    assert math.isnan(numbers["death_in_step_auroc"])


def test_persistence_repeats_what_is_shown(trajectories):
    log = trajectories
    said = forecast(Persistence(log.preprocessing), log)
    z = log.preprocessing.standardize(log.values)
    np.testing.assert_array_equal(said.mean, z[log.is_decision])
    first = log.offsets[:-1] - np.arange(len(log))  # each stay has one row that is no decision
    np.testing.assert_array_equal(said.open_loop[first], z[log.offsets[:-1]])


def test_references_learn_more_than_persistence():
    raw = make_raw_cohort(200)  # values without a memory: the mean beats the last one
    cohort = assemble(raw, AssemblyConfig(), source="x", credentialed=False)
    test = cohort.split("test")
    nothing = evaluate_fidelity(Persistence(cohort.preprocessing), test)
    linear = evaluate_fidelity(LinearModel.fit(cohort.split("train")), test)
    published = evaluate_fidelity(train_published(cohort, epochs=3), test)
    for numbers in (linear, published):
        for name in ("one_step_mae", "vitals_mae", "open_loop_12_mae", "one_step_crps"):
            assert numbers[name] < 0.95 * nothing[name], name
        assert 0.8 < numbers["interval_90_coverage"] < 0.97
        assert 0 <= numbers["mortality_auroc_at_end"] <= 1


def test_a_network_starts_from_regressions_that_heed_each_members_weights(synthetic):
    stays = Sequences.of(synthetic.split("train"), "cpu")
    weight = torch.empty(2, len(stays)).exponential_(generator=torch.Generator().manual_seed(0))
    inputs = stays.decided().double()
    seen = stays.states[:, 1:, VENTILATED_INPUT][stays.mask].double()
    has_tube = inputs[:, VENTILATED_INPUT] > 0
    assert 0 < seen[has_tube].mean() < 1
    assert 0 < seen[~has_tube].mean() < 1
    everyone = torch.ones_like(has_tube)
    fitted, intercept = fit_straight(stays, weight)
    plain, plain_intercept = fit_straight(stays, weight, by_tube=False)
    first, second = range(VENTILATION.start, VENTILATION.stop)
    straight = zip(weight, fitted, intercept, plain, plain_intercept, strict=True)
    for own, w, b, one, one_bias in straight:
        counts = own[:, None].expand_as(stays.mask)[stays.mask].double()
        for weights, bias, at, of in (
            (w, b, first, ~has_tube),
            (w, b, second, has_tube),
            (one, one_bias, first, everyone),
            (one, one_bias, second, everyone),
        ):
            told = torch.sigmoid(inputs[of] @ weights[:, at].double() + bias[0, at])
            # where a penalised likelihood is highest it is flat
            error = counts[of] * (told - seen[of])
            assert (inputs[of].T @ error + weights[:, at] / 0.1).abs().max() < 0.1
            assert error.sum().abs() < 0.1
    untold = np.r_[N_FEATURES : VENTILATION.start, VENTILATION.stop : MORTALITY.start]
    assert not fitted[..., untold].any()
    assert fitted[..., :N_FEATURES].any()
    assert (fitted[0] - fitted[1])[:, VENTILATION].abs().max() > 0.1


def test_a_start_where_nobody_is_ventilated_is_sure_of_it(synthetic):
    stays = Sequences.of(synthetic.split("train"), "cpu")
    stays.states[:, :, VENTILATED_INPUT] = 0
    fitted, intercept = fit_straight(stays, torch.ones(1, len(stays)))
    first = VENTILATION.start  # the other is of those who are ventilated: there is none
    assert not fitted[..., VENTILATION].any()
    assert (intercept[..., first] < -10).all()


def test_the_published_architecture_learns(synthetic):
    before, after = (
        evaluate_fidelity(train_published(synthetic, epochs=epochs), synthetic.split("test"))
        for epochs in (0, 8)
    )
    assert after["one_step_mae"] < 0.9 * before["one_step_mae"]
    assert after["open_loop_12_mae"] < before["open_loop_12_mae"]
    assert after["ventilation_auroc"] > 0.75


def test_the_published_architecture_sees_its_windows_and_no_further(trajectories):
    model = train_published(trajectories, epochs=1)
    stay = int(np.argmax(trajectories.n_decisions))
    log = trajectories.select(np.array([stay]))
    t = 14
    before = forecast(model, log)
    changed = {}
    for name, step in (("seen", t - 5), ("outcome only", t - 11), ("unseen", t - 12)):
        values = log.values.copy()
        values[step] *= 1.02
        changed[name] = forecast(model, replace(log, values=values))
    for name, states, outcome in (
        ("seen", True, True),
        ("outcome only", False, True),
        ("unseen", False, False),
    ):
        after = changed[name]
        assert (after.mean[t] != before.mean[t]).any() == states, name
        assert (after.mortality_90d[t] != before.mortality_90d[t]) == outcome, name


def test_the_published_training_is_deterministic(trajectories):
    one, two, other = (train_published(trajectories, seed=s, epochs=1) for s in (4, 4, 5))
    weights = [model.states.head.weight.detach().numpy() for model in (one, two, other)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert (weights[0] != weights[2]).any()


def test_the_floor_lies_below_everything_and_is_deterministic(synthetic):
    log = synthetic
    scales = log.preprocessing
    known = floor(log, draws=8, seed=1)
    again = floor(log, draws=8, seed=1)
    for name in ("mean", "open_loop", "scale", "ventilated", "mortality_90d"):
        np.testing.assert_array_equal(getattr(known, name), getattr(again, name))
    best = score(known, log, scales)
    patient_only = score(floor(log, errors_known=False, draws=8, seed=1), log, scales)
    worst = evaluate_fidelity(Persistence(scales), log)
    default = evaluate_fidelity(load_world_model("default"), log)
    for name in ("one_step_mae", "open_loop_12_mae"):
        assert best[name] < patient_only[name] < worst[name]
        assert best[name] < 0.85 * default[name]
    assert best["mortality_auroc_at_24h"] > 0.65
    assert best["ventilation_auroc"] > worst["ventilation_auroc"]
    assert 0.68 < best["interval_90_coverage"] < 0.95  # eight copies know the spread poorly


def test_the_floor_of_some_stays_is_of_those(synthetic):
    some = synthetic.select(np.arange(30, 50))
    said = floor(some, draws=4)
    assert said.mean.shape == (some.is_decision.sum(), N_FEATURES)
    numbers = score(said, some, some.preprocessing)
    worst = evaluate_fidelity(Persistence(some.preprocessing), some)
    assert numbers["one_step_mae"] < 0.8 * worst["one_step_mae"]


def test_only_simulated_patients_have_a_floor(trajectories):
    with pytest.raises(SupportError, match=r"random test stays: no floor"):
        floor(trajectories)


def test_another_cohort_is_shown_in_the_models_scales(trajectories):
    model = load_world_model("default")
    shown = in_scales_of(trajectories, model.preprocessing)
    shown.validate()
    known = trajectories.preprocessing.known(trajectories.age)
    np.testing.assert_array_equal(shown.values[known], trajectories.values[known])
    fill = np.broadcast_to(np.array(model.preprocessing.fill, np.float32), shown.values.shape)
    assert (~known).any()
    np.testing.assert_array_equal(shown.values[~known], fill[~known])
    assert in_scales_of(shown, model.preprocessing) is shown
    with pytest.raises(ConfigError, match="step_hours is 4, the world model's 8"):
        in_scales_of(trajectories, replace(model.preprocessing, step_hours=8))


def test_reliability_bins_hold_equally_many():
    predicted = np.linspace(0, 1, 1000)
    truth = np.random.default_rng(0).random(1000) < predicted
    mean, share, count = reliability(truth, predicted)
    assert count.tolist() == [100] * 10
    np.testing.assert_allclose(mean, np.arange(10) / 10 + 0.05, atol=0.01)
    assert np.abs(share - mean).max() < 0.15
    assert len(reliability(truth[:30], predicted[:30])[0]) == 0  # three to a bin say nothing


def test_table_and_json_of_several_columns():
    numbers = dict.fromkeys(ROWS, 0.4)
    columns = {
        "world model": numbers | {"epistemic": math.nan},
        "persistence": numbers | {"one_step_mae": 0.5},
        "floor": numbers | {"one_step_mae": 0.3},
    }
    table = fidelity_table(columns)
    closed = next(line for line in table.splitlines() if "one-step gap closed" in line)
    assert [cell.strip() for cell in closed.split("│")[2:5]] == ["50%", "0%", "100%"]
    times = next(line for line in table.splitlines() if "one-step error / floor" in line)
    assert [cell.strip() for cell in times.split("│")[2:5]] == ["1.333", "1.667", "1.000"]
    assert "n/a" in table
    assert "never for patient care" in table
    content = json.loads(json.dumps(fidelity_json(columns, {"split": "test"}), allow_nan=False))
    assert content["columns"]["world model"]["epistemic"] is None
    assert content["columns"]["floor"]["one_step_mae"] == 0.3


@pytest.fixture
def few_treated(monkeypatch):
    few = partial(evaluate_survival, patients=256)
    monkeypatch.setattr("world_models.survival.evaluate_survival", few)


@pytest.mark.usefixtures("few_treated")
def test_evaluate_and_card_on_the_sample_cohort(capsys, tmp_path):
    out = tmp_path / "fidelity"
    main(["world-model", "evaluate", "--cohort", str(SAMPLE_COHORT), "--out", str(out)])
    told = capsys.readouterr().out
    effect, treatment = "norepinephrine 0.13 on MAP", "the most fluid"
    for row_or_column in ("world model", "persistence", "ridge", effect, treatment):
        assert row_or_column in told
    effects = json.loads((out / "effects.json").read_text())
    assert effects[f"{effect}, mmHg"]["true"] > 5
    survival = json.loads((out / "survival.json").read_text())
    assert 0.3 < survival[treatment]["true"] < 0.9
    assert sorted(path.name for path in out.iterdir()) == [
        *("calibration.png", "coverage.png", "effects.json", "effects.png"),
        *("fans.png", "fidelity.json", "fidelity.md", "survival.json"),
    ]
    for name in ("calibration", "coverage", "effects", "fans"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((out / "fidelity.json").read_text())
    mean_error = content["columns"]["world model"]["one_step_mae"]
    assert mean_error < content["columns"]["persistence"]["one_step_mae"]
    page = (out / "fidelity.md").read_text()
    assert {line.count("|") for line in page.splitlines() if line.startswith("|")} == {5}
    card = tmp_path / "card.md"
    main(["world-model", "card", "--out", str(card), "--fidelity", str(out / "fidelity.json")])
    text = card.read_text()
    assert "never for patient care" in text
    assert "Out of scope" in text
    assert f"{mean_error:.3f}" in text
    assert load_provenance("default")["content_hash"] in text
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.usefixtures("few_treated")
def test_a_credentialed_cohort_shows_no_single_stay(capsys, tmp_path):
    sample = Trajectories.load(SAMPLE_COHORT)
    bound = replace(sample, manifest=replace(sample.manifest, credentialed=True))
    bound.save(tmp_path / "cohort")
    where = ("--cohort", str(tmp_path / "cohort"), "--out", str(tmp_path / "out"))
    main(["world-model", "evaluate", *where])
    assert "fans.png is left out" in capsys.readouterr().out
    assert not (tmp_path / "out" / "fans.png").exists()
    assert json.loads((tmp_path / "out" / "fidelity.json").read_text())["credentialed"] is True


def test_a_card_says_what_is_missing_and_refuses_other_files(tmp_path):
    model = load_world_model("default")
    text = model_card("mine", model, {})
    assert "None given" in text
    assert "unknown cohort" in text
    for content in ("[]", "{", '{"columns": {"a": {"one_step_mae": "x"}}}'):
        (tmp_path / "numbers.json").write_text(content)
        with pytest.raises(SourceError, match=r"numbers\.json: is no fidelity\.json"):
            model_card("mine", model, {}, tmp_path / "numbers.json")


def test_evaluate_with_references_has_a_floor(synthetic, capsys, tmp_path):
    few = [np.flatnonzero(synthetic.stays.split == split)[:8] for split in SPLITS]
    synthetic.select(np.concatenate(few)).save(tmp_path / "cohort")
    main(["world-model", "evaluate", "--cohort", str(tmp_path / "cohort"), "--references"])
    told = capsys.readouterr().out
    assert "published" in told
    assert "one-step error / floor" in told
    assert "open-loop gap closed" in told
