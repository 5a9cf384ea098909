import pickle
from dataclasses import replace

import numpy as np
import pytest

from sepsis_gym.envs import SepsisEnv, SepsisVectorEnv
from sepsis_gym.errors import ConfigError
from sepsis_gym.features import N_FEATURES
from sepsis_gym.reward import _scores
from world_models import load_world_model
from world_models.forward import BLOCK


@pytest.fixture(scope="module")
def model():
    return load_world_model("default")


def trajectory(model, n, steps=6):
    """Patients and ends of a seeded run, doses by turns."""
    rng = np.random.default_rng(3)
    patients = model.start(n, rng)
    doses = model.preprocessing.action_bins.doses(np.arange(n) % 25)
    moved = []
    for _ in range(steps):
        moved.append(model.step(patients, *doses, rng))
        patients = moved[-1].patients
    return moved


def same(ones, twos, **tolerance):
    for one, two in zip(ones, twos, strict=True):
        np.testing.assert_array_equal(one.end, two.end)
        np.testing.assert_array_equal(one.patients.age, two.patients.age)
        np.testing.assert_array_equal(one.patients.ventilated, two.patients.ventilated)
        for name in ("mortality_90d", "epistemic"):
            np.testing.assert_allclose(getattr(one, name), getattr(two, name), **tolerance)
        for name in ("values", "memory"):
            np.testing.assert_allclose(
                getattr(one.patients, name), getattr(two.patients, name), err_msg=name, **tolerance
            )


def test_threads_change_no_number(model):
    threaded = load_world_model("default", threads=2)
    same(trajectory(model, 600), trajectory(threaded, 600), rtol=0)
    with pytest.raises(ConfigError, match="threads must be 1 or more, got 0"):
        load_world_model("default", threads=0)


def test_torch_gives_the_trajectories_of_numpy(model):
    pytest.importorskip("torch", reason="the torch extra is not installed")
    on_device = load_world_model("default", device="cpu")
    same(trajectory(model, 200), trajectory(on_device, 200), rtol=1e-3, atol=1e-5)
    patients = model.start(50, np.random.default_rng(0))
    doses = np.full(50, 100.0), np.full(50, 0.1)
    expected, found = (one.predict(patients, *doses) for one in (model, on_device))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
    with pytest.raises(ConfigError, match="threads are for numpy"):
        load_world_model("default", threads=2, device="cpu")
    with pytest.raises(ConfigError, match="device 'abacus' cannot be used"):
        load_world_model("default", device="abacus")


def in_blocks(model, compute, patients, *drawn):
    """What the compiled or the numpy step makes of n patients and their draws."""
    if compute == model._sample:
        return model._in_blocks(compute, patients, *drawn)
    after = compute.empty(patients)
    model._in_blocks(compute, patients, *drawn, *after)
    return after


@pytest.mark.parametrize("n", [1, 30])
def test_the_compiled_step_is_the_numpy_step(model, n):
    pytest.importorskip("numba", reason="the fast extra is not installed")
    rng = np.random.default_rng(0)
    ends = set()
    for _ in range(20 if n == 1 else 2):
        patients = model.start(n, rng)
        for _ in range(18):
            doses = model.preprocessing.action_bins.doses(rng.integers(0, 25, n))
            noise = rng.standard_normal((n, N_FEATURES), dtype=np.float32)
            chance = rng.random((n, N_FEATURES + 2), dtype=np.float32)
            chance[rng.random(n) < 0.1, -1] = 0  # dies
            sampled = in_blocks(model, model._compiled, patients, *doses, noise, chance)
            *found, known, shown, sofa, scored = sampled
            expected = model._sample(patients, *doses, noise, chance)
            for one, two in zip(found, expected, strict=True):
                assert one.dtype == two.dtype
                np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
            moved = patients.moved(*found[:3], *doses, found[3])
            moved.note(model.preprocessing, known=known, sofa=sofa, shown=shown)
            both = np.stack(_scores(patients, moved, model.preprocessing), axis=1)
            np.testing.assert_array_equal(scored, both)
            patients = checked(moved, model.preprocessing, atol=1e-3)
            ends.update(found[4].tolist())
    assert ends == {0, 1, 2}


@pytest.mark.parametrize("n", [1, 400])
def test_the_compiled_draw_of_first_states_is_the_numpy_draw(model, n):
    pytest.importorskip("numba", reason="the fast extra is not installed")
    plain = model.start_states.draw(n, model.preprocessing, np.random.default_rng(n))
    drawn = model._compiled.start(n, np.random.default_rng(n), plain.memory)
    for name, expected in vars(plain).items():
        if not name.startswith("_"):
            np.testing.assert_array_equal(getattr(drawn, name), expected, name, strict=True)
    checked(drawn, model.preprocessing, atol=1e-4)


def test_episodes_are_the_same_with_and_without_the_compiled_step(model):
    pytest.importorskip("numba", reason="the fast extra is not installed")
    plain = load_world_model("default")
    plain._compiled = None
    envs = [SepsisEnv(one) for one in (model, plain)]
    rng = np.random.default_rng(2)
    for seed in range(12):
        shown = [env.reset(seed=seed) for env in envs]
        over = False
        while not over:
            for one, two in zip(*shown, strict=True):
                if isinstance(one, dict):
                    assert one.keys() == two.keys()
                    one, two = ([x[key] for key in two] for x in (one, two))
                    assert [type(x) for x in one] == [type(x) for x in two]
                    one, two = (np.hstack(x) for x in (one, two))
                np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)
            action = int(rng.integers(25))
            steps = [env.step(action) for env in envs]
            assert steps[0][2:4] == steps[1][2:4]
            assert steps[0][1] == pytest.approx(steps[1][1], abs=1e-3)
            assert steps[0][0] in envs[0].observation_space
            over = steps[0][2]
            shown = [(step[0], step[4]) for step in steps]


def test_a_patient_fares_alike_alone_and_in_company(model):
    rng = np.random.default_rng(1)
    n = BLOCK + 22
    patients = model.start(n, rng)
    doses = model.preprocessing.action_bins.doses(rng.integers(0, 25, n))
    noise = rng.standard_normal((n, N_FEATURES), dtype=np.float32)
    chance = rng.random((n, N_FEATURES + 2), dtype=np.float32)
    for compute in filter(None, (model._sample, model._compiled)):
        together = in_blocks(model, compute, patients, *doses, noise, chance)
        for at in (0, BLOCK - 1, BLOCK, n - 1):
            row = slice(at, at + 1)
            drawn = (x[row] for x in (*doses, noise, chance))
            alone = in_blocks(model, compute, patients.take(row), *drawn)
            for one, many in zip(alone, together, strict=True):
                np.testing.assert_allclose(one[0], many[at], rtol=1e-4, atol=1e-5)


def test_a_model_pickles_and_goes_on_alike(model):
    trajectory(model, 3, steps=1)  # fills the scratch arrays
    same(trajectory(model, 10), trajectory(pickle.loads(pickle.dumps(model)), 10), rtol=0)


def checked(patients, preprocessing, atol=1e-5):
    """What is kept about the patients is what their present values give."""
    known = preprocessing.known(patients.age)
    doses = patients.previous_fluid_ml, patients.previous_norepinephrine_equivalent
    for found, expected in (
        (patients.known(preprocessing), known),
        (patients.sofa(preprocessing), patients.score(known)),
        (patients.standardized(preprocessing), preprocessing.standardize(patients.values)),
        (
            patients.standardized_static(preprocessing),
            preprocessing.standardize_static(patients.static),
        ),
        (patients.previous_action(preprocessing), preprocessing.action_bins.action(*doses)),
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    return patients


def test_what_is_worked_out_about_a_state_moves_with_it(model):
    env = SepsisVectorEnv(40, model)
    env.reset(seed=0)
    for step in range(30):
        env.step(np.full(40, step % 25))
        patients = checked(env._state.patients, model.preprocessing)
    others = checked(model.start(40, np.random.default_rng(0)), model.preprocessing)
    mine = np.arange(40) % 3 == 0
    checked(patients.take(mine), model.preprocessing)
    put = checked(patients.put(~mine, others.take(~mine)), model.preprocessing)
    order = np.maximum(np.cumsum(mine) - 1, 0)
    mixed = patients.take(mine).put(~mine, others.take(~mine), order)
    checked(mixed, model.preprocessing)
    np.testing.assert_array_equal(put.values, mixed.values)
    np.testing.assert_array_equal(put.sofa(model.preprocessing), mixed.sofa(model.preprocessing))


def test_a_memory_of_another_size_is_refused_before_compiled_code_reads_it():
    model = load_world_model("default")
    rng = np.random.default_rng(0)
    for n in (1, 3):
        patients = model.start(n, rng)
        shorter = replace(patients, memory=patients.memory[:, :, 1:].copy())
        with pytest.raises(ConfigError, match="another world model"):
            model.step(shorter, np.zeros(n), np.zeros(n), rng)
