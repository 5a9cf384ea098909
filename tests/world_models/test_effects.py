from dataclasses import replace

import numpy as np
import pytest
import torch

from sepsis_gym.cohort.assemble import AssemblyConfig, assemble
from sepsis_gym.errors import ConfigError
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.registration import SAMPLE_COHORT
from sepsis_gym.trajectories import Trajectories
from world_models import load_world_model
from world_models.effect_fidelity import (
    CONTRASTS,
    EffectScore,
    effect_table,
    evaluate_effects,
)
from world_models.effects import (
    Doses,
    draw_doses,
    expected_pressure,
    no_effects,
    prior_effects,
    usual_size,
)
from world_models.inputs import N_STATE_INPUTS
from world_models.losses import sequence_loss
from world_models.network import EnsembleNetwork
from world_models.physiology import ClinicianConfig
from world_models.physiology.body import advance, late_risk
from world_models.physiology.effects import expected, true_effects, true_moments
from world_models.physiology.records.blocks import simulated
from world_models.physiology.records.trajectories import raw_cohort
from world_models.physiology.unit import drift, risk_per_hour
from world_models.sequences import Sequences

MAP = FEATURE_INDEX["meanbp"]


def synthetic(patients, seed, clinician, step_hours=4):
    """A cohort whose truth can be asked, as the command line builds it."""
    raw = raw_cohort(simulated(patients, seed, clinician), step_hours=step_hours, seed=seed)
    made = {"patients": patients, "seed": seed, "clinician": vars(clinician)}
    return assemble(
        raw,
        AssemblyConfig(step_hours=step_hours),
        source="simulated",
        credentialed=False,
        build={"synthetic": made},
    )


@pytest.fixture(scope="module")
def cohort():
    return synthetic(300, 3, ClinicianConfig())


def test_pairs_differ_in_fluid_in_vasopressor_or_in_both():
    first, second = draw_doses(3000, 4, np.random.default_rng(0))
    fluid = first.fluid_ml != second.fluid_ml
    vasopressor = first.norepinephrine_equivalent != second.norepinephrine_equivalent
    for kind in (fluid & ~vasopressor, vasopressor & ~fluid, fluid & vasopressor):
        assert 0.15 < kind.mean() < 0.4
    assert first.norepinephrine_equivalent[first.norepinephrine_equivalent > 0].min() >= 0.02
    assert first.norepinephrine_equivalent.max() <= 1
    assert draw_doses(500, 1, np.random.default_rng(0))[0].fluid_ml.max() <= 2500 / 4


def test_the_prior_is_the_published_size_of_effect():
    untreated = expected_pressure(np.float64(55), np.float64(0), np.float64(0), np.float64(0.1))
    assert untreated - 55 == pytest.approx(11)
    same = expected_pressure(np.float64(70), np.float64(0.3), np.float64(0), np.float64(0.3))
    assert same == pytest.approx(70)
    doses = np.linspace(0, 1, 20)
    assert (np.diff(expected_pressure(60.0, np.float64(0.2), 0.0, doses)) > 0).all()
    assert expected_pressure(60.0, np.float64(0.2), 500.0, np.float64(0.2)) - 60 == pytest.approx(
        1.57, abs=0.01
    )


def test_the_prior_claims_blood_pressures_that_are_known_and_nothing_else(cohort):
    effects = prior_effects(cohort)
    claimed = ~np.isnan(effects.change)
    pressures = [FEATURE_INDEX[name] for name in ("sysbp", "diabp", "meanbp")]
    known = cohort.preprocessing.known(cohort.age[cohort.is_decision])
    np.testing.assert_array_equal(claimed[:, pressures], known[:, pressures])
    assert claimed.sum() == claimed[:, pressures].sum() > 0
    assert np.isnan(effects.died).all()
    assert np.isnan(effects.risk).all()
    more = effects.second.norepinephrine_equivalent - effects.first.norepinephrine_equivalent
    only = claimed[:, MAP] & (effects.first.fluid_ml == effects.second.fluid_ml)
    np.testing.assert_array_equal(np.sign(effects.change[only, MAP]), np.sign(more[only]))


def test_nothing_is_claimed_of_a_log_alone(cohort):
    effects = no_effects(cohort)
    assert np.isnan(effects.change).all()
    assert np.isnan(effects.died).all()
    assert len(effects.change) == cohort.n_decisions.sum()


def test_the_truth_is_that_of_the_very_patients(cohort):
    """From the true state, the logged step is foretold far better than by persistence."""
    rows = np.flatnonzero(cohort.is_decision)
    seen = np.zeros(len(rows), bool)
    forecast = np.zeros(len(rows))
    for moment in true_moments(cohort):
        at = rows[moment.decision]
        mean = cohort.norepinephrine_equivalent_mean[at]
        values, *_ = expected(moment, Doses(cohort.fluid_ml[at], mean), 4)
        forecast[moment.decision] = values[:, MAP]
        seen[moment.decision] = True
    assert seen.all()
    measured = cohort.measured[rows + 1, MAP]
    error, still = (
        np.abs(guess - cohort.values[rows + 1, MAP])[measured].mean()
        for guess in (forecast, cohort.values[rows, MAP])
    )
    assert error < 0.75 * still


def test_true_effects_of_equal_treatments_are_none_and_of_vasopressor_are_pressure(cohort):
    effects = true_effects(cohort)
    more = effects.second.norepinephrine_equivalent - effects.first.norepinephrine_equivalent
    fluid = effects.first.fluid_ml == effects.second.fluid_ml
    clear = fluid & (np.abs(more) > 0.1)
    assert (effects.change[clear, MAP] * np.sign(more[clear]) >= -1e-3).mean() > 0.98
    alike = fluid & (more == 0)
    assert alike.any()
    assert np.nanmax(np.abs(effects.change[alike])) == 0
    assert (effects.died >= 0).all()
    assert (effects.died <= 1).all()
    assert np.abs(effects.risk[alike]).max() == 0
    assert np.abs(effects.risk).max() <= 1
    assert (effects.scale > 0).all()


def test_the_true_risk_of_a_step_is_that_of_the_bodies_it_leaves(cohort):
    moment = next(iter(true_moments(cohort)))
    n = len(moment.decision)
    doses = Doses(np.zeros(n, np.float32), np.full(n, 0.2, np.float32))
    _, died, risk = expected(moment, doses, 4)
    beds = moment.beds.take(np.arange(n))
    here, kept, calm = np.ones(n), 1 - beds.body.comfort, np.zeros((2, n), np.float32)
    for quarter in range(16):
        drift(beds.body, calm)
        time = moment.hour + quarter / 4
        advance(beds.body, beds.people, time, np.zeros(n, np.float32), 0.2 * kept)
        here *= np.exp(-0.25 * risk_per_hour(beds.body))
    np.testing.assert_allclose(died, 1 - here, atol=1e-5)
    late = late_risk(beds.body, beds.people)
    np.testing.assert_allclose(risk, 1 - here * (1 - late), atol=1e-5)


def test_a_network_pays_for_its_error_of_the_difference_in_risk(cohort):
    """All weights are zero but those of the doses: it says that any vasopressor saves 3 points."""
    network = EnsembleNetwork(1, 4, torch.Generator())
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
        network.output_bias[..., -5:-2] = torch.tensor([0.0, -100.0, -100.0])  # all go on
        network.output_bias[..., -2] = float(np.log(0.2 / 0.8))
        network.direct_weight[:, N_STATE_INPUTS + 2, -2] = float(
            np.log(0.17 / 0.83) - np.log(0.2 / 0.8)
        )
    unclaimed = replace(prior_effects(cohort), change=no_effects(cohort).change)
    some = [d.norepinephrine_equivalent > 0 for d in (unclaimed.first, unclaimed.second)]
    said = 0.2 - 0.03 * np.stack(some).astype(np.float32)
    losses = []
    for off in (np.nan, 0.0, 0.05):
        told = replace(unclaimed, risk=(said[1] - said[0] + off).astype(np.float32))
        stays = Sequences.of(cohort, "cpu", told)
        never, asked = torch.full((len(stays),), 99), range(stays.mask.shape[1])
        weight = torch.ones(1, len(stays))
        losses.append(
            sequence_loss(
                network, stays, weight, never, level_weight=0, effect_weight=2, asked=asked
            ).item()
        )
    np.testing.assert_allclose(losses, [0, 0, 2 * 200 * 0.05**2], atol=1e-4)


def test_a_walk_ends_with_the_stay_and_costs_the_same_in_any_order(cohort):
    stays = Sequences.of(cohort, "cpu", true_effects(cohort))
    network = EnsembleNetwork(2, 8, torch.Generator().manual_seed(0))
    weight = torch.rand(2, len(stays))
    switch = torch.randint(1, 19, (len(stays),))
    lengths = stays.mask.sum(1)
    walked = []
    network.register_forward_pre_hook(lambda _, inputs: walked.append(inputs[0].shape[1]))
    losses, most = [], []
    for order in (lengths.argsort(descending=True), lengths.argsort()):
        losses.append(
            sequence_loss(
                network, stays.take(order), weight[:, order], switch[order], effect_weight=1.0,
                asked=(0, 2),
            )
        )  # fmt: skip
        most.append(walked[: int(lengths.max())])
        walked.clear()
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)
    assert sum(most[0]) == int(lengths.sum())
    assert set(most[1]) == {len(stays)}


def test_a_part_of_a_cohort_has_the_same_truth(cohort):
    part = cohort.split("test")
    moments = {m.hour: m for m in true_moments(cohort)}
    of_part = next(iter(true_moments(part)))
    whole = moments[of_part.hour]
    stays = cohort.stays.stay_id[cohort.stay_of_row[cohort.is_decision]][whole.decision]
    there = np.isin(stays, part.stays.stay_id)
    np.testing.assert_array_equal(whole.beds.take(there).pack(), of_part.beds.pack())


def test_other_steps_ask_about_other_hours():
    hourly = synthetic(40, 0, ClinicianConfig(), step_hours=1)
    hours = [moment.hour for moment in true_moments(hourly)]
    assert hours[:3] == [1, 2, 3]
    assert not np.isnan(true_effects(hourly).change[:, MAP]).any()


def test_the_truth_of_other_cohorts_is_not_known(cohort):
    config = {k: v for k, v in cohort.manifest.config.items() if k != "synthetic"}
    real = replace(cohort, manifest=replace(cohort.manifest, config=config))
    with pytest.raises(ConfigError, match="synthetic cohorts of causal alignment only"):
        next(true_moments(real))


def test_stays_of_other_patients_are_refused(cohort):
    stays = replace(cohort.stays, stay_id=cohort.stays.stay_id + 1_000_000)
    with pytest.raises(ConfigError, match="none of the 300 patients"):
        true_effects(replace(cohort, stays=stays))


def test_an_error_counts_by_the_usual_effect_of_what_differs():
    first = Doses(np.zeros(4, np.float32), np.zeros(4, np.float32))
    second = Doses(np.array([500, 500, 0, 0], np.float32), np.array([0, 0, 0.1, 0.3], np.float32))
    change = np.full((4, 39), np.nan, np.float32)
    change[:, 0] = 0.3, 0.5, 3.0, 4.0
    size = usual_size(first, second, change)
    floor = 0.05**2
    np.testing.assert_allclose(size[:2, 0], np.sqrt((0.09 + 0.25) / 2 + floor), rtol=1e-5)
    np.testing.assert_allclose(size[2:, 0], np.sqrt((9 + 16) / 2 + floor), rtol=1e-5)


def test_bias_and_correlation_by_hand():
    true, predicted = np.array([10.0, 20.0, 30.0]), np.array([12.0, 18.0, 36.0])
    score = EffectScore(CONTRASTS[0], true, predicted)
    assert score.bias == pytest.approx(0.1)
    assert score.correlation == pytest.approx(np.corrcoef(true, predicted)[0, 1])
    assert EffectScore(CONTRASTS[0], true, np.ones(3)).correlation == 0
    table = effect_table([score], [0.5])
    assert "+10%" in table
    assert f"{score.correlation / 0.5:.2f}" in table


def test_the_default_model_ranks_treatments_the_right_way_round(cohort):
    model = load_world_model("default")
    rescaled = replace(cohort, manifest=replace(cohort.manifest, preprocessing=model.preprocessing))
    pressure, fluid, urine, death = evaluate_effects(model, rescaled)
    assert abs(pressure.bias) < 0.15
    assert pressure.correlation > 0.25
    assert fluid.predicted.mean() > 0
    assert urine.predicted.mean() > 0
    assert death.predicted.mean() < 0


def test_logged_stays_without_a_truth_still_have_a_prior():
    sample = Trajectories.load(SAMPLE_COHORT)
    assert np.isfinite(prior_effects(sample).change).any()
