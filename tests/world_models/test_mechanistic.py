from dataclasses import fields, replace

import gymnasium as gym
import numpy as np
import pytest

from sepsis_gym.actions import ActionBins
from sepsis_gym.cohort.assemble import AssemblyConfig, assemble
from sepsis_gym.dynamics import End, TransitionModel
from sepsis_gym.envs import SepsisEnv, SepsisReplayEnv
from sepsis_gym.errors import ConfigError, UnknownNameError
from sepsis_gym.features import FEATURE_INDEX, N_FEATURES
from world_models import MechanisticModel, load_world_model, mechanistic
from world_models.checkpoint import load_preprocessing
from world_models.physiology.batch import Batch
from world_models.physiology.beds import Beds, HourlyLuck, follow, foresee
from world_models.physiology.binning import bin_readings
from world_models.physiology.body import Body, advance, infected, late_risk
from world_models.physiology.clinician import (
    ClinicianConfig,
    Decisions,
    action_probabilities,
    prescribe,
)
from world_models.physiology.courses import Streams, admit, clinicians, run
from world_models.physiology.people import People, draw_people
from world_models.physiology.policies import best_by, trial_arm
from world_models.physiology.records.blocks import simulated
from world_models.physiology.records.trajectories import raw_cohort

MAP, LACTATE, URINE, FIO2 = (
    FEATURE_INDEX[name] for name in ("meanbp", "lactate", "output_4hourly", "fio2")
)
N = 400


@pytest.fixture(scope="module")
def model():
    return MechanisticModel()


@pytest.fixture(scope="module")
def patients(model):
    return model.start(N, np.random.default_rng(0))


def columns(part: Batch):
    return {field.name: getattr(part, field.name) for field in fields(part)}


def unlucky(hours, n) -> HourlyLuck:
    """Nothing drifts, errs or happens, and everything is measured."""
    luck = HourlyLuck.draw(hours, n, np.random.default_rng(0))
    for normal in (luck.unit.drift, luck.error, luck.chance):
        normal[:] = 0
    luck.unit.events[:] = 0.5
    return luck


def test_spaces_and_protocol_are_the_learned_models(model):
    assert isinstance(model, TransitionModel)
    assert model.preprocessing == load_world_model("default").preprocessing
    learned, mechanistic_env = gym.make("SepsisWM-v0"), gym.make("SepsisPhysio-v0")
    assert learned.observation_space == mechanistic_env.observation_space
    assert learned.action_space == mechanistic_env.action_space
    assert set(learned.reset(seed=0)[1]) == set(mechanistic_env.reset(seed=0)[1])
    with pytest.raises(UnknownNameError, match="no-such-model"):
        load_preprocessing("no-such-model")


def test_patients_are_charted_as_in_a_cohort_of_theirs(model):
    clinician = ClinicianConfig()
    made = raw_cohort(simulated(2000, 5, clinician), step_hours=4, seed=5)
    cohort = assemble(
        made, AssemblyConfig(), source="made", credentialed=False,
        preprocessing=model.preprocessing,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    mine = model.start(2000, rng)
    rows = cohort.offsets[:-1]
    for step in range(3):
        theirs = cohort.patients(rows + step)
        # the usual doses of each step, so that both are about as ill
        known, logged = (who.known(model.preprocessing).mean(0) for who in (mine, theirs))
        np.testing.assert_allclose(known, logged, atol=0.06)
        assert known[FIO2] > 0.75  # by device and flow, where nobody typed it
        means = [who.sofa(model.preprocessing).mean() for who in (mine, theirs)]
        assert means[0] == pytest.approx(means[1], abs=0.35)
        rows = rows[cohort.n_decisions[cohort.stay_of_row[rows]] > step + 1]
        doses = (cohort.fluid_ml, cohort.norepinephrine_equivalent)
        fluid, dose = (rng.choice(given[rows + step], len(mine)) for given in doses)
        moved = model.step(mine, fluid, dose, rng)
        mine = moved.patients.take(moved.end == End.ONGOING)


def test_a_bin_is_the_mean_of_what_was_charted():
    readings = np.zeros((5, 1, N_FEATURES), np.float32)
    readings[:, 0, MAP] = [60, 70, 90, 100, 200]
    readings[:, 0, URINE] = [100, 300, 0, 0, 900]
    readings[1, 0, LACTATE] = np.nan
    charted = np.zeros(readings.shape, bool)
    charted[[0, 1, 3, 4], 0, MAP] = True
    charted[:2, 0, URINE] = True
    (raw,) = bin_readings(readings, charted, 4)
    assert raw[0, MAP] == np.float32((60 + 70 + 100) / 3)
    assert raw[0, URINE] == 200
    assert np.isnan(np.delete(raw[0], [MAP, URINE])).all()
    assert raw.dtype == np.float32
    np.testing.assert_array_equal(bin_readings(readings, charted, 1)[4, 0, MAP], 200)
    assert bin_readings(readings, charted, 2).shape == (2, 1, N_FEATURES)


def test_first_states_hold_what_was_measured_in_the_first_bin(model, patients):
    assert set(np.unique(patients.age)) == {0, 9999}
    assert (patients.step == 0).all()
    assert 0.95 < patients.measured[:, MAP].mean() <= 1
    assert 0.05 < patients.measured[:, LACTATE].mean() < 0.95
    assert patients.previous_fluid_ml.max() > 500
    assert 0.1 < (patients.previous_norepinephrine_equivalent > 0).mean() < 0.6
    np.testing.assert_array_equal(patients.static[:, 0], Beds.unpack(patients.memory).people.age)


def test_patients_who_die_in_the_first_bin_are_drawn_again(model, monkeypatch):
    real, calls = mechanistic.run, []

    def deadly(ward, *rest):
        course = real(ward, *rest)
        calls.append(len(course.end))
        course.end[: len(course.end) // 2] = End.DIED
        return course

    monkeypatch.setattr(mechanistic, "run", deadly)
    assert len(model.start(8, np.random.default_rng(0))) == 8
    assert calls == [10, 3, 1]  # two to spare; half of each round die
    monkeypatch.setattr(mechanistic, "run", lambda *given: dying(real(*given)))
    with pytest.raises(ConfigError, match="3 of 3 patients died"):
        model.start(3, np.random.default_rng(0))


def dying(course):
    course.end[:] = End.DIED
    return course


def test_memory_is_small_and_single_precision(model, patients):
    moved = model.step(patients, np.full(N, 300.0), np.full(N, 0.1), np.random.default_rng(0))
    beds = Beds.unpack(moved.patients.memory)
    np.testing.assert_array_equal(beds.pack(), moved.patients.memory)
    for part in (beds.people, beds.body):
        assert {column.dtype for column in columns(part).values()} == {np.dtype(np.float32)}
    for name in ("values", "memory", "previous_fluid_ml", "previous_norepinephrine_equivalent"):
        assert getattr(moved.patients, name).dtype == np.float32
    bytes_per_env = sum(getattr(moved.patients, f.name).nbytes for f in fields(patients)) / N
    assert bytes_per_env < 1000


def test_every_column_stays_single_precision_between_two_readings(patients):
    beds = Beds.unpack(patients.memory)
    luck = HourlyLuck.draw(1, N, np.random.default_rng(0))
    since, doses = np.full(N, 4, np.float32), np.full((2, N), 0.1, np.float32)
    seen = follow(beds, since, 1, *doses, luck)
    for name, column in columns(beds.body).items():
        assert column.dtype == np.float32, name
        assert np.isfinite(column).all(), name
    assert beds.instruments.error.dtype == seen.readings.dtype == np.float32


def test_one_seed_gives_one_course_bit_for_bit(model, patients):
    doses = np.full(N, 300.0), np.full(N, 0.1)
    before = patients.memory.copy()
    one, two, other = (model.step(patients, *doses, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.patients.memory, two.patients.memory)
    np.testing.assert_array_equal(one.patients.values, two.patients.values)
    assert not np.array_equal(one.patients.memory, other.patients.memory)
    np.testing.assert_array_equal(patients.memory, before)


def test_two_policies_meet_the_same_patients_and_the_same_luck(model):
    """Potential outcomes: what is not the doses' doing is the same under both."""
    outcomes = []
    for fluid, dose in ((0.0, 0.0), (600.0, 0.3)):
        rng = np.random.default_rng(5)
        patients = model.start(50, rng)
        end = np.full(50, End.ONGOING)
        for _ in range(4):
            transition = model.step(patients, np.full(50, fluid), np.full(50, dose), rng)
            end = np.where(end == End.ONGOING, transition.end, end)
            patients = transition.patients
        outcomes.append((Beds.unpack(patients.memory), end == End.ONGOING))
    (untreated, here), (treated, still_here) = outcomes
    both = np.flatnonzero(here & still_here)
    assert len(both) > 25
    untreated, treated = untreated.take(both), treated.take(both)
    for name, column in columns(untreated.people).items():
        np.testing.assert_array_equal(column, getattr(treated.people, name))
    for name in ("offset", "error", "tested", "clock"):
        one, two = (getattr(beds.instruments, name) for beds in (untreated, treated))
        np.testing.assert_array_equal(one, two)
    for name in ("tone_noise", "drive_noise"):
        np.testing.assert_array_equal(getattr(untreated.body, name), getattr(treated.body, name))
    assert (treated.body.pressure > untreated.body.pressure).mean() > 0.9
    np.testing.assert_allclose(treated.body.fluid_l - untreated.body.fluid_l, 2.4, rtol=1e-4)


def test_environments_of_one_seed_part_when_their_actions_do():
    """Ten pairs; the second of each is treated from the third decision on."""
    first, second = gym.make("SepsisPhysio-v0"), gym.make("SepsisPhysio-v0")
    parted = 0
    for seed in range(10):
        (observation, info), (twin, twin_info) = first.reset(seed=seed), second.reset(seed=seed)
        for t in range(4):
            if t < 3:
                np.testing.assert_array_equal(observation, twin)
                for key, value in info.items():
                    np.testing.assert_array_equal(value, twin_info[key], err_msg=key)
            observation, _, over, _, info = first.step(0)
            twin, _, twin_over, _, twin_info = second.step(0 if t < 2 else 24)
            if over or twin_over:
                break
        else:
            assert not np.array_equal(observation, twin)
            for key in ("static", "step"):
                np.testing.assert_array_equal(info[key], twin_info[key], err_msg=key)
            parted += 1
    assert parted > 3


def test_comfort_care_overrides_the_action(model, patients):
    beds = Beds.unpack(patients.memory)
    beds.body.comfort[:] = np.arange(N) % 2
    comforted = replace(patients, memory=beds.pack())
    moved = model.step(comforted, np.full(N, 400.0), np.full(N, 0.2), np.random.default_rng(0))
    here = moved.end == End.ONGOING
    treated = here & (np.arange(N) % 2 == 0) & (Beds.unpack(moved.patients.memory).body.comfort < 1)
    comfort = here & (np.arange(N) % 2 == 1)
    assert (moved.patients.previous_fluid_ml[treated] == 400).all()
    assert (moved.patients.previous_norepinephrine_equivalent[treated] == np.float32(0.2)).all()
    assert (moved.patients.previous_fluid_ml[comfort] == 0).all()
    assert (moved.patients.previous_norepinephrine_equivalent[comfort] == 0).all()
    given = Beds.unpack(moved.patients.memory).body.fluid_l - beds.body.fluid_l
    np.testing.assert_allclose(given[treated], 0.4, atol=1e-5)
    np.testing.assert_array_equal(given[comfort], 0)
    died = moved.end == End.DIED
    assert died[1::2].mean() > 0.3 > 0.1 > died[::2].mean()  # 1 - exp(-0.15 / h * 4 h) = 0.45


def test_the_body_stays_what_it_was_at_death(patients):
    """Everybody dies in the sixth quarter of an hour: 1 h 30 after the state."""
    doses = np.full(N, 0.1, np.float32), np.full(N, 0.1, np.float32)
    since = np.full(N, 4, np.float32)
    luck = unlucky(4, N)
    luck.unit.events[:, 5] = 1
    luck.unit.events[5, 5] = 0
    seen = follow(Beds.unpack(patients.memory), since, 4, *doses, luck)
    assert (seen.end == End.DIED).all()
    np.testing.assert_array_equal(seen.ongoing, [[True] * N, [True] * N, [False] * N, [False] * N])
    assert not seen.charted[2:].any()
    assert seen.charted[:2, :, MAP].all()
    beds = Beds.unpack(patients.memory)
    for quarter in range(6):
        beds.body.tone_noise *= np.float32(np.exp(-0.25 / 3))
        beds.body.drive_noise *= np.float32(np.exp(-0.25 / 12))
        advance(beds.body, beds.people, 4 + quarter * 0.25, *doses)
    np.testing.assert_allclose(Body.unpack(seen.bodies).pressure, beds.body.pressure, rtol=1e-4)


def test_patients_at_different_hours_move_as_they_would_alone(patients):
    """The antibiotic, the morning round and leaving depend on the hour of each patient."""
    since = np.where(np.arange(N) % 2, 4, 40).astype(np.float32)
    doses = np.zeros(N, np.float32), np.zeros(N, np.float32)
    luck = HourlyLuck.draw(4, N, np.random.default_rng(2))
    together = follow(Beds.unpack(patients.memory), since, 4, *doses, luck)
    for start in (4, 40):
        alone = follow(Beds.unpack(patients.memory), np.full(N, start), 4, *doses, luck)
        same = since == start
        np.testing.assert_array_equal(together.end[same], alone.end[same])
        np.testing.assert_array_equal(together.charted[:, same], alone.charted[:, same])
        np.testing.assert_allclose(together.bodies[same], alone.bodies[same], rtol=1e-5, atol=1e-5)
    assert (together.end[since == 40] == End.DISCHARGED).any()
    assert not (together.end[since == 4] == End.DISCHARGED).any()


@pytest.mark.parametrize("step_hours", [1, 8])
def test_other_clocks_work(model, step_hours):
    clocked = MechanisticModel(replace(model.preprocessing, step_hours=step_hours))
    rng = np.random.default_rng(0)
    patients = clocked.start(20, rng)
    fluid = np.full(20, 100.0 * step_hours)
    moved = clocked.step(patients, fluid, np.zeros(20), rng)
    here = moved.end == End.ONGOING
    change = (
        Beds.unpack(moved.patients.memory).body.fluid_l - Beds.unpack(patients.memory).body.fluid_l
    )
    np.testing.assert_allclose(change[here], 0.1 * step_hours, atol=1e-5)


# ----------------------------------------------------------------------------- the truth, simulate


def test_simulate_is_the_step_without_luck(model, patients):
    one = patients.take(np.array([3]))
    before = one.memory.copy()
    fluid, dose = model.preprocessing.action_bins.doses(np.arange(25))
    simulation = model.simulate(one, fluid, dose)
    np.testing.assert_array_equal(one.memory, before)
    many = one.take(np.zeros(25, int))
    doses = fluid / np.float32(4000), dose
    seen = follow(Beds.unpack(many.memory), np.full(25, 4, np.float32), 4, *doses, unlucky(4, 25))
    assert (seen.end == End.ONGOING).all()
    expected = bin_readings(seen.readings, ~np.isnan(seen.readings), 4)[0]
    known, body = ~np.isnan(expected), Body.unpack(seen.bodies)
    np.testing.assert_array_equal(simulation.values[known], expected[known])
    np.testing.assert_allclose(
        simulation.mortality_90d,
        simulation.died + (1 - simulation.died) * late_risk(body, Beds.unpack(many.memory).people),
        rtol=1e-5,
    )
    assert (simulation.epistemic == 0).all()
    assert (simulation.spread[:, 0] <= simulation.values).all()
    assert (simulation.values <= simulation.spread[:, 1]).all()


def test_simulate_is_what_happens_on_average(model, patients):
    """4,000 steps of five patients each, under 300 mL and 0.13 ug/kg/min, beside the prediction."""
    copies = 4000
    for at in range(5):
        one = patients.take(np.array([at]))
        simulation = model.simulate(one, np.array([300.0]), np.array([0.13]))
        many = one.take(np.zeros(copies, int))
        doses = np.full(copies, 300.0), np.full(copies, 0.13)
        moved = model.step(many, *doses, np.random.default_rng(at))
        measured = moved.patients.measured
        for name, tolerance in (("meanbp", 1.0), ("heart_rate", 1.5), ("creatinine", 0.05)):
            index = FEATURE_INDEX[name]
            mean = moved.patients.values[measured[:, index], index].mean()
            assert mean == pytest.approx(simulation.values[0, index], abs=tolerance), name
        inside = simulation.spread[0, 0] <= moved.patients.values
        inside &= moved.patients.values <= simulation.spread[0, 1]
        for name in ("temp_c", "sodium", "platelet", "glucose"):
            index = FEATURE_INDEX[name]
            assert 0.85 < inside[measured[:, index], index].mean() <= 1, name
        died = (moved.end == End.DIED).mean()
        assert simulation.died[0] == pytest.approx(died, abs=0.01)


def test_chances_of_dying_and_leaving_are_those_that_come_true(model):
    rng = np.random.default_rng(7)
    patients = model.start(3000, rng)
    for _ in range(4):
        transition = model.step(
            patients, np.full(len(patients), 100.0), np.zeros(len(patients)), rng
        )
        patients = transition.patients.take(transition.end == End.ONGOING)
    n = len(patients)
    since, nothing = np.full(n, 20, np.float32), np.zeros(n, np.float32)
    expected = foresee(Beds.unpack(patients.memory), since, 4, nothing, nothing)
    luck = HourlyLuck.draw(4, n, rng)
    seen = follow(Beds.unpack(patients.memory), since, 4, nothing, nothing, luck)
    for chance, end in ((expected.died, End.DIED), (expected.left, End.DISCHARGED)):
        error = float(np.sqrt((chance * (1 - chance)).sum()) / n)
        assert (seen.end == end).mean() == pytest.approx(chance.mean(), abs=4 * error + 0.005)
    assert (expected.died + expected.left <= 1).all()


def test_pressure_never_falls_with_the_vasopressor(model, patients):
    fluid, dose = model.preprocessing.action_bins.doses(np.arange(25))
    for at in range(60):
        simulation = model.simulate(patients.take(np.array([at])), fluid, dose)
        pressure = simulation.values[:, MAP].reshape(5, 5)
        assert (np.diff(pressure, axis=1) >= 0).all(), at


def test_pressure_rises_with_the_vasopressor_in_every_body(model, patients):
    _, dose = model.preprocessing.action_bins.doses(np.arange(5))
    pressure = after_a_step(patients, np.zeros(5, np.float32), dose).pressure
    assert (np.diff(pressure.reshape(N, 5), axis=1) >= 0).all()


def test_fluid_fills_veins_and_lungs(model, patients):
    """In 99% of patients; better perfusion calms inflammation, so that lungs leak a trace less."""
    fluid, _ = model.preprocessing.action_bins.doses(np.arange(0, 25, 5))
    body = after_a_step(patients, fluid / np.float32(4000), np.zeros(5, np.float32))
    for name, trace in (("venous_pressure", 0.0), ("lung_water", 0.01)):
        rise = np.diff(getattr(body, name).reshape(N, 5), axis=1)
        assert (rise >= -trace).all(1).mean() >= 0.99, name
    lung_water = body.lung_water.reshape(N, 5)
    assert (lung_water[:, 4] - lung_water[:, 0]).mean() > 0


def after_a_step(patients, fluid_l_h, dose) -> Body:
    """[n * k] every patient's body after 4 h under each of k doses, patient by patient."""
    beds = Beds.unpack(patients.memory).take(np.repeat(np.arange(len(patients)), len(dose)))
    doses = (np.tile(each, len(patients)) for each in (fluid_l_h, dose))
    foresee(beds, np.full(len(beds), 4, np.float32), 4, *doses)
    return beds.body


# ---------------------------------------------------------------------------- the body by itself


def healthy() -> tuple[People, Body]:
    """Somebody of 64 and 78 kg without illness, infection or loss of fluid."""
    people = draw_people(1, np.random.default_rng(0))
    usual = {
        "age": 64, "charlson": 2, "male": 1, "weight_kg": 78, "contractility": 1,
        "filtration": 0.95, "heart_rate": 74, "resistance": 17.9, "ed50": 0.62, "emax": 2.5,
        "stressed_volume": 1.75, "threshold": 59.5, "leak": 0.75, "vasoplegia": 0.86,
        "gain": 0.95, "kill": 0.055, "lung_injury": 0.45, "vasopressor_harm": 1, "creatinine": 0.8,
        "bun": 16.5, "platelet": 218, "bilirubin": 0.5, "inr": 1.18, "haemoglobin": 13,
        "albumin": 4, "transaminase": 30, "urine_factor": 1,
    }  # fmt: skip
    for name, column in columns(people).items():
        column[:] = usual.get(name, 0)
    body = infected(people, np.random.default_rng(0))
    body.bacteria[:], body.inflammation[:] = 0, 0
    return people, body


def test_a_healthy_body_stays_healthy_without_treatment():
    people, body = healthy()
    nothing = np.zeros(1, np.float32)
    for quarter in range(48 * 4):
        advance(body, people, quarter * 0.25, nothing, nothing)
        if quarter >= 8:  # it settles from the pressures that every body begins with
            assert 78 <= body.pressure[0] <= 95  # it drinks less than it loses
            assert 0.9 <= body.lactate[0] <= 1.5
            assert body.urine_ml_h[0] > 0.5 * 78
    assert 1 - np.exp(-body.cumulative_hazard[0]) < 0.005


@pytest.mark.parametrize(("fluid_l_h", "dose"), [(0.0, 0.0), (0.08, 0.1)])
def test_the_internal_step_is_short_enough(patients, fluid_l_h, dose):
    """The risk after 52 h, in steps of 15 minutes and of less than 4."""
    risks = []
    for dt in (0.25, 0.0625):
        beds = Beds.unpack(patients.memory)
        people, body = beds.people, beds.body
        body.cumulative_hazard[:] = 0
        doses = np.full(N, fluid_l_h, np.float32), np.full(N, dose, np.float32)
        for step in range(round(52 / dt)):
            advance(body, people, 4 + step * dt, *doses, dt)
        survived = np.exp(-body.cumulative_hazard)
        risks.append(1 - survived * (1 - late_risk(body, people)))
    assert abs(risks[0].mean() - risks[1].mean()) < 0.005


# ------------------------------------------------------------------------- clinicians, policies


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda: ClinicianConfig(decision_interval_hours=0), "decision_interval_hours .* got 0"),
        (lambda: ClinicianConfig(exploration=1.5), "exploration .* got 1.5"),
        (lambda: ClinicianConfig(unusual=-0.1), "unusual .* got -0.1"),
        (lambda: ClinicianConfig(cue_strength=float("nan")), "cue_strength .* got nan"),
        (lambda: trial_arm(fluid="libral"), "fluid .* got 'libral'"),
        (lambda: best_by("pressures"), "goal .* got 'pressures'"),
    ],
)
def test_what_is_no_clinician_is_refused(make, wrong):
    with pytest.raises(ConfigError, match=wrong):
        make()


@pytest.mark.parametrize("unusual", [0.0, 1.0])
def test_propensities_are_the_shares_of_what_is_prescribed(unusual):
    """2,000 decisions of each of 50 clinicians: no cell is off by more than chance allows."""
    n, draws = 50, 2000
    ward = admit(n, Streams.of(3), ClinicianConfig(unusual=unusual))
    bins, rng = ActionBins(), np.random.default_rng(0)
    chart = ward.chart(1.0)
    known = action_probabilities(chart, ward.style, ward.people, ward.body, 0, bins)
    np.testing.assert_allclose(known.sum(1), 1)
    count = np.zeros_like(known)
    for _ in range(draws):
        bolus, carrier, dose = prescribe(
            chart, ward.style, ward.people, ward.body, 0, Decisions.draw(n, rng)
        )
        count[np.arange(n), bins.action(1000 * (bolus + 4 * carrier), dose)] += 1
    error = np.sqrt(known * (1 - known) / draws)
    assert (np.abs(count / draws - known) <= 5 * error + 1e-3).all()


def test_unusual_clinicians_move_nothing_of_the_usual_ones():
    """Who keeps the usual habits treats as if nobody else did otherwise, bit by bit."""
    n, logs = 200, {}
    for share in (0.0, 0.4):
        streams, clinician = Streams.of(7), ClinicianConfig(exploration=0.1, unusual=share)
        ward = admit(n, streams, clinician)
        door = Beds(ward.people, ward.body, ward.instruments).pack()
        logs[share] = door, run(ward, clinicians(clinician), 24, streams)
    (door, usual), (same, mixed) = logs.values()
    np.testing.assert_array_equal(door, same)
    habits = usual.style.pack(), mixed.style.pack()
    kept = (habits[0] == habits[1]).all(1)
    assert 0.5 < kept.mean() < 0.7
    for name in ("readings", "charted", "bolus_l", "carrier_l_h", "dose", "flags", "hidden"):
        both = getattr(usual, name)[:, kept], getattr(mixed, name)[:, kept]
        np.testing.assert_array_equal(*both)


def test_who_withholds_gives_nothing_or_little_whatever_the_pressure():
    streams, clinician = Streams.of(8), ClinicianConfig(unusual=1.0)
    courses = run(admit(600, streams, clinician), clinicians(clinician), 48, streams)
    cap = courses.style.cap
    nothing, little = cap == 0, (cap > 0) & (cap < 0.1)
    assert 0.36 < nothing.mean() < 0.48
    assert 0.12 < little.mean() < 0.24
    assert courses.dose[:, nothing].max() == 0
    assert courses.dose[:, little].max() <= 0.1
    fluid_l = (courses.bolus_l + courses.carrier_l_h).sum(0)
    assert fluid_l[nothing].mean() < 0.1 * fluid_l[cap > 0.1].mean()
    assert fluid_l[little].mean() < 0.7 * fluid_l[cap > 0.1].mean()
    assert np.std(courses.style.target[cap > 0.1]) > 10


# --------------------------------------------------------------------------------- logged stays


def test_logged_stays_have_no_body_to_go_on_from(model, trajectories):
    env = SepsisReplayEnv(trajectories, model=model)
    env.reset(seed=0)
    for ask in (lambda: env.simulate(np.arange(3)), lambda: env.step(0)):
        with pytest.raises(ConfigError, match="logged stay"):
            ask()


def test_preprocessing_of_another_cohort_can_be_given(trajectories):
    env = gym.make("SepsisPhysio-v0", preprocessing=trajectories.preprocessing)
    assert isinstance(env.unwrapped, SepsisEnv)
    assert env.unwrapped.preprocessing == trajectories.preprocessing
    assert (
        env.observation_space
        == SepsisEnv(MechanisticModel(trajectories.preprocessing)).observation_space
    )
