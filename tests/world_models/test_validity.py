import dataclasses
import importlib.util
import json
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from sepsis_gym.cli import main
from sepsis_gym.errors import ConfigError, SourceError
from sepsis_gym.features import FEATURE_NAMES
from world_models.physiology import body, calibration
from world_models.physiology.fit_layer import simulated
from world_models.physiology.targets import FEATURE_TARGETS
from world_models.physiology.validity import (
    causal,
    confounding,
    observed,
    on_tables,
    ordering,
    real,
    under_care,
    validate,
    written,
)
from world_models.physiology.validity.checks import at_least, at_most, within

N, SEED = 400, 7701
NUMBERS = {*range(2, 17), 19, 20, 21, 0}


@pytest.fixture(scope="module")
def checks():
    """By name, of one small cohort; the comparison of policies has two seeds."""
    return {check.name: check for check in validate(N, (1, 2))}


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    return written.written(80, SEED, tmp_path_factory.mktemp("synthetic"))


def test_every_number_has_a_check(checks):
    assert {check.number for check in checks.values()} == NUMBERS
    for check in checks.values():
        assert check.name
        assert (check.passed is None) == (check.value == "")


@pytest.mark.parametrize(
    "name",
    [
        "patients whose MAP never falls as norepinephrine rises",
        "patients whose venous pressure never falls as fluid rises",
        "patients whose lung water never falls as fluid rises",
        "effect left at 90 min",
        "response in heart failure, of the others'",
        "cardiac output 30 min after 500 mL, % (Nunes 2014)",
        "MAP by 0.1 ug/kg/min in untreated hypotension, mmHg",
        "dose that holds MAP 75, ug/kg/min (LeDoux 2000)",
        "CLOVERS: liberal - restrictive fluid, points",
        "SEPSISPAM: high - low pressure, points",
        "inflammation persists 48 h without an antibiotic",
        "MAP of the healthy, mmHg",
        "lactate of the healthy, mmol/L",
        "urine of the healthy, mL/kg/h",
        "death of the healthy in 48 h, %",
        "52-h risk at a quarter of the step, points",
        "same seed, same bits",
        "an action changed at 20 h changes nothing before it",
        "oracle < guideline",
        "random < maximum",
        "share of patients for whom one action is best",
        "personal against best common action, points",
        "clinicians < highest pressure",
        "oracle < lowest SOFA",
        "AUROC of death from the doses alone",
        "crude risk difference of early vasopressor, points",
        "harm of withholding it from the same patients, points, above 3 SE",
        "bias of the effect of 0.13 ug/kg/min on MAP in a randomised log",
        "hidden columns in hosp/ and icu/",
    ],
)
def test_what_holds_in_a_small_cohort(checks, name):
    assert checks[name].passed, checks[name]


def test_the_build_recovers_the_tables(checks):
    rows = [check for check in checks.values() if check.number == 0]
    assert len(rows) > 15
    assert [check for check in rows if not check.passed] == []


def test_without_real_tables_their_tests_are_not_run(checks):
    skipped = [check for check in checks.values() if check.passed is None]
    assert [check.number for check in skipped] == [2, 19, 20, 21]
    assert all("--mimic-demo" in check.reason for check in skipped)


def named(found, name):
    return next(check for check in found if name in check.name)


def test_a_wrong_layer_is_noticed(monkeypatch):
    """Sodium and three more half a deviation too high: 33 of 39 are left, no more 36."""
    (before,) = observed.marginals(observed.Seen(simulated(4000, SEED)))
    for name in ("sodium", "hemoglobin", "heart_rate", "potassium"):
        shift, scale, log = calibration.LAYER[name]
        monkeypatch.setitem(
            calibration.LAYER, name, (shift + 0.5 * FEATURE_TARGETS[name].sd, scale, log)
        )
        assert name not in before.reason
    (after,) = observed.marginals(observed.Seen(simulated(4000, SEED)))
    assert before.passed
    assert not after.passed
    for name in ("sodium", "hemoglobin", "heart_rate", "potassium"):
        assert f"{name} (mean +0." in after.reason


def test_a_wrong_body_is_noticed(monkeypatch):
    """Log odds of late death 2 too low."""
    monkeypatch.setattr(body, "LATE_RISK", body.LATE_RISK - 2)
    mortality = named(under_care(N, SEED), "90-day mortality")
    assert not mortality.passed
    assert float(mortality.value) < 0.2


def test_a_harmful_drug_is_noticed(monkeypatch):
    """A vasopressor that costs pressure."""
    advance = causal.advance

    def reversed_effect(state, people, hour, fluid, dose, dt=0.25):
        advance(state, people, hour, fluid, np.float32(1) - np.minimum(dose, 1), dt)

    monkeypatch.setattr(causal, "advance", reversed_effect)
    assert not named(causal.dose_responses(60, SEED), "MAP never falls").passed


def test_randomisation_is_what_undoes_the_bias(monkeypatch):
    ordinary = confounding.LADDER["hourly titration"]
    monkeypatch.setitem(confounding.LADDER, "randomised", ordinary)
    assert not named(confounding.ladder(60, SEED), "randomised log").passed


def test_a_gap_must_exceed_three_standard_errors():
    """Differences 0.01, 0.02, 0.03 have a mean of 0.02 and a standard error of 0.01 / sqrt(3)."""
    low = np.array([0.2, 0.2, 0.2])
    step = np.array([0.01, 0.02, 0.03])
    assert ordering._gap(11, "a", "b", low, low + step).passed
    assert not ordering._gap(11, "a", "b", low, low + step - 0.003).passed
    assert not ordering._gap(11, "a", "b", low, low).passed
    assert not ordering._gap(11, "a", "b", low + step, low).passed


def test_strata_without_patients_fail():
    severity, death = np.repeat([1, 5], [100, 3]), np.repeat([0.1, 0.3], [100, 3])
    check = observed._by_stratum("x", severity, 0, {(0, 2): 0.12, (2, 9): 0.3}, death)
    assert not check.passed
    assert check.reason == "2-9: 3 patients"
    assert observed._by_stratum("x", severity, 0, {(0, 2): 0.12}, death).passed


def test_limits_include_their_ends():
    assert within(1, "x", 2.0, 2.0, 3.0).passed
    assert not within(1, "x", 3.01, 2.0, 3.0).passed
    assert at_most(1, "x", 2.0, 2.0).passed
    assert not at_most(1, "x", float("nan"), 2.0).passed
    assert not at_least(1, "x", 1.9, 2.0).passed


def test_a_cohort_is_its_own_copy(synthetic):
    """Real tables that are the synthetic ones: all alike, and every row copied."""
    same = list(real.beside_real(synthetic, synthetic))
    failed = [check.name for check in same if not check.passed]
    assert failed == ["synthetic rows that equal a real one (vitals to a tenth)"]
    assert int(same[-1].value) > 500


def test_real_patients_too_few_for_folds_are_said(synthetic):
    few = synthetic.cohort.select(np.arange(3))
    for test in (real.told_apart, real.transfer):
        (check,) = test(synthetic.cohort, few)
        assert check.passed is None
        assert "3 real patients" in check.reason


def test_bins_of_another_kind_are_told_apart(synthetic):
    """Pulse and pressure no longer go together: told apart even with means and spreads matched."""
    other = synthetic.cohort.select(np.arange(0, len(synthetic.cohort), 2))
    rate = FEATURE_NAMES.index("heart_rate")
    values = other.values.copy()
    values[:, rate] = 80 + 3 * (values[:, FEATURE_NAMES.index("meanbp")] - 75)
    found = list(real.told_apart(synthetic.cohort, dataclasses.replace(other, values=values)))
    assert [check.passed for check in found] == [False, False]


def test_the_demo_beside_synthetic_tables(mimic_demo):
    found = list(on_tables(80, SEED, mimic_demo / "mimic-iv-demo"))
    assert {check.number for check in found} == {0, 2, 19, 20, 21}
    assert None not in {check.passed for check in found}
    for name in (
        "trained on synthetic / on real", "real ones' columns", "1-99% range", "within range",
        "Sepsis-3 stays", "equal a real one", "hidden columns",
    ):  # fmt: skip
        assert named(found, name).passed, named(found, name)


def test_bad_settings_are_refused_before_the_work(tmp_path):
    with pytest.raises(ConfigError, match="200 or more"):
        validate(199)
    with pytest.raises(SourceError, match="hosp/ and icu/"):
        validate(200, mimic=tmp_path / "nowhere")


def test_the_command_prints_and_writes(checks, tmp_path, capsys, monkeypatch):
    """The tests themselves are run above."""
    asked = []

    def already_run(*settings):
        asked.append(settings)
        return list(checks.values())

    monkeypatch.setattr("world_models.physiology.validity.validate", already_run)
    drawn = importlib.util.find_spec("matplotlib") is not None
    out = tmp_path / "validity"
    main(["cohort", "validate", "--patients", "200", *(["--out", str(out)] if drawn else [])])
    assert asked == [(200, (1, 2, 3, 4), None)]
    printed = capsys.readouterr().out
    assert "4 not run" in printed
    assert "never for patient care" in printed
    if not drawn:
        pytest.skip("the figures extra is not installed: pictures not tested")
    content = json.loads((out / "validity.json").read_text())
    assert content["seeds"] == [1, 2, 3, 4]
    assert {check["number"] for check in content["checks"]} == NUMBERS
    for name in ("marginals", "persistence", "patients"):
        assert ElementTree.parse(out / f"{name}.svg").getroot().tag.endswith("svg")


def test_pictures_name_their_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "world_models.physiology.validity.figures", raising=False)
    with pytest.raises(SystemExit):
        main(["cohort", "validate", "--out", str(tmp_path / "out")])
    assert "sepsis-gym[figures]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
