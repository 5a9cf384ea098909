import functools
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import world_models
from sepsis_gym.cohort.assemble import AssemblyConfig, RawCohort, assemble
from sepsis_gym.dynamics import End, TransitionModel
from sepsis_gym.envs import SepsisEnv
from sepsis_gym.errors import CheckpointError, ConfigError, UnknownNameError
from sepsis_gym.features import FEATURE_INDEX, HIGH, LOW, N_FEATURES, TYPICAL
from world_models import TrainConfig, available, load_world_model

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from world_models.fidelity import evaluate_fidelity  # noqa: E402
from world_models.forecast import in_scales_of  # noqa: E402
from world_models.forward import (  # noqa: E402
    CHANGE,
    END,
    MEASURED,
    RISK,
    SCALE,
    VENTILATED,
    NumpyForward,
    PackedWeights,
)
from world_models.inputs import dose_inputs, step_inputs  # noqa: E402
from world_models.logged import expected_step  # noqa: E402
from world_models.losses import sequence_loss  # noqa: E402
from world_models.network import (  # noqa: E402
    LEAST_SCALE,
    N_OUTPUTS,
    VENTILATION,
    EnsembleNetwork,
    split_outputs,
)
from world_models.references import Persistence  # noqa: E402
from world_models.sequences import Sequences  # noqa: E402
from world_models.start_states import StartStates  # noqa: E402
from world_models.training import train_world_model  # noqa: E402

MAP, LACTATE = FEATURE_INDEX["meanbp"], FEATURE_INDEX["lactate"]
EFFECT_MMHG = 12.0
QUICK = TrainConfig(members=2, hidden=16, epochs=3, batch_size=64, seed=1, effects="log")


def dynamic_cohort(n_stays=400, seed=0) -> RawCohort:
    """AR(1) features; vasopressor in a bin adds 12 mmHg to that bin; doses are randomised."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, 20, n_stays)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = int(offsets[-1])
    spread = np.maximum(0.1 * np.abs(TYPICAL), 0.02)
    deviation = np.zeros((rows, N_FEATURES))
    for at in range(n_stays):
        for row in range(offsets[at], offsets[at + 1]):
            before = deviation[row - 1] if row > offsets[at] else rng.standard_normal(N_FEATURES)
            deviation[row] = 0.5 * before + 0.866 * rng.standard_normal(N_FEATURES)
    dose = np.where(rng.random(rows) < 0.5, rng.uniform(0.05, 0.5, rows), 0.0)
    raw = TYPICAL + spread * deviation
    raw[:, MAP] += EFFECT_MMHG * (dose > 0)
    raw = np.where(rng.random(raw.shape) < 0.7, np.clip(raw, LOW, HIGH), np.nan)
    final_lactate = deviation[offsets[1:] - 1, LACTATE]
    died = rng.random(n_stays) < 1 / (1 + np.exp(1.5 - 2 * final_lactate))
    return RawCohort(
        stays={
            "stay_id": np.arange(n_stays),
            "subject_id": np.arange(n_stays),
            "age": rng.uniform(30, 90, n_stays).astype(np.float32),
            "male": rng.random(n_stays) < 0.5,
            "charlson": rng.integers(0, 9, n_stays).astype(np.float32),
            "died_in_hospital": died,
            "died_90d": died,
            "end": np.where(lengths == 19, End.HORIZON, End.DISCHARGED).astype(np.int8),
        },
        offsets=offsets,
        raw=raw.astype(np.float32),
        ventilated=rng.random(rows) < 0.3,
        fluid_ml=np.where(rng.random(rows) < 0.6, rng.gamma(1, 300, rows), 0).astype(np.float32),
        norepinephrine_equivalent=dose.astype(np.float32),
        sofa_24h=np.full(rows, np.nan, np.float32),
    )


@pytest.fixture(scope="module")
def cohort():
    return assemble(dynamic_cohort(), AssemblyConfig(), source="AR(1) stays", credentialed=False)


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "dynamic"
    config = TrainConfig(
        members=3, hidden=32, epochs=40, batch_size=16, learning_rate=4e-3, effects="log"
    )
    return train_world_model(cohort, folder, config), folder


def same(one, two):
    for name in ("values", "age", "ventilated", "memory", "step"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_the_default_model_keeps_the_contract():
    assert "default" in available()
    model = load_world_model("default")
    assert isinstance(model, TransitionModel)
    rng = np.random.default_rng(0)
    patients = model.start(300, rng)
    for _ in range(18):
        assert (patients.values >= LOW).all()
        assert (patients.values <= HIGH).all()
        gcs = patients.values[:, FEATURE_INDEX["gcs_eye"] : FEATURE_INDEX["gcs_motor"] + 1]
        measured = patients.measured[:, FEATURE_INDEX["gcs_eye"] : FEATURE_INDEX["gcs_motor"] + 1]
        assert (gcs[measured] == np.round(gcs[measured])).all()
        fluid, dose = model.preprocessing.action_bins.doses(rng.integers(0, 25, 300))
        moved = model.step(patients, fluid, dose, rng)
        patients = moved.patients
        assert set(np.unique(moved.end)) <= {End.ONGOING, End.DISCHARGED, End.DIED}
        assert ((moved.mortality_90d >= 0) & (moved.mortality_90d <= 1)).all()
        assert (moved.epistemic > 0).all()
    assert (patients.step == 18).all()


def random_weights(members=2, hidden=16):
    """A network of random weights, and its weights as numpy sees them."""
    network = EnsembleNetwork(members, hidden, torch.Generator().manual_seed(0))
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
        parameter.data = parameter.data.half().float()  # what a checkpoint stores
    return network, {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def test_torch_and_numpy_compute_the_same(cohort):
    network, weights = random_weights()
    forward = NumpyForward(PackedWeights.pack(weights))
    patients = cohort.patients(np.arange(100))
    fluid, dose = np.full(100, 200.0), np.full(100, 0.1)
    inputs = step_inputs(patients, fluid, dose, cohort.preprocessing)
    rng = np.random.default_rng(0)
    memory = rng.standard_normal((100, 2, 17)).astype(np.float32)
    with torch.no_grad():
        outputs, following = network(
            torch.from_numpy(inputs).expand(2, -1, -1),
            torch.from_numpy(memory[:, :, :-1]).transpose(0, 1),
        )
    blocks = [block.transpose(0, 1).numpy() for block in split_outputs(outputs)]
    change, scale, measured, ventilated, end, risk = blocks
    forward.inputs(100)[:] = inputs
    numpy_memory = memory.copy()
    shared, own = forward(numpy_memory, None)
    close = functools.partial(np.testing.assert_allclose, atol=1e-4)
    close(numpy_memory[:, :, :-1], following.transpose(0, 1).numpy())
    np.testing.assert_array_equal(numpy_memory[:, :, -1], memory[:, :, -1])
    close(shared[:, :, CHANGE], change)
    close(2 * shared[:, :, RISK], risk)
    close(np.log1p(np.exp(own[:, :, SCALE])) + LEAST_SCALE, scale)
    close(own[:, :, END], end)
    close(2 * own[:, :, MEASURED], measured)
    close(2 * own[:, :, VENTILATED], ventilated)
    every = own.copy()
    member = rng.integers(2, size=100)
    _, own = forward(memory, member)
    close(own, every[np.arange(100), member])


@pytest.mark.parametrize("compiled", [True, False])
def test_who_is_ventilated_and_who_is_not_have_a_logit_each(trained, monkeypatch, compiled):
    model, _ = trained
    weights = {name: np.zeros_like(w) for name, w in model.weights.items()}
    weights["output_bias"][..., VENTILATION] = 20.0, -20.0  # all change over
    turned = type(model)(model.preprocessing, weights, model.start_states)
    if not compiled:
        monkeypatch.setattr(turned, "_compiled", None)
    patients = turned.start(200, np.random.default_rng(0))
    doses = np.zeros(200, np.float32), np.zeros(200, np.float32)
    said = turned.predict(patients, *doses)["ventilated"]
    np.testing.assert_allclose(said, ~patients.ventilated, atol=1e-6)
    for n in (200, 1):  # a single patient's step is compiled apart
        some = patients.take(slice(n))
        after = turned.step(some, doses[0][:n], doses[1][:n], np.random.default_rng(1)).patients
        np.testing.assert_array_equal(after.ventilated, ~some.ventilated)
    assert 0 < patients.ventilated.mean() < 1


def test_mortality_aside_is_the_same_and_leaves_the_hidden_units_alone():
    network, _ = random_weights()
    drawn = torch.Generator().manual_seed(1)
    shapes = (2, 5, network.input_weight.shape[1]), (2, 5, network.hidden)
    given = [torch.randn(shape, generator=drawn) for shape in shapes]
    told, moved = [], []
    for aside in (False, True):
        network.zero_grad()
        outputs, _ = network(*given, aside=aside)
        outputs[..., -2:].sum().backward()
        told.append(outputs.detach().numpy())
        moved.append([p.grad is not None and bool(p.grad.any()) for p in network.parameters()])
    np.testing.assert_allclose(*told, atol=1e-5)
    names = [name for name, _ in network.named_parameters()]
    learned = {name for name, one in zip(names, moved[1], strict=True) if one}
    assert learned == {"output_weight", "output_bias", "direct_weight"}
    assert all(moved[0])


def test_torch_and_numpy_run_on_alike(trained, cohort):
    """What training shows the network in place of a state is what a forecast shows it."""
    model, _ = trained
    stays, rows = Sequences.of(cohort, "cpu"), cohort.offsets[:-1]
    patients, doses = (
        cohort.patients(rows),
        (cohort.fluid_ml[rows], cohort.norepinephrine_equivalent[rows]),
    )
    said = model.predict(patients, *doses)
    unread = expected_step(model, patients, doses, said, cohort.measured[rows + 1])
    fluid, dose = np.full(len(rows), 300.0), np.linspace(0, 0.5, len(rows))
    shown = step_inputs(unread, fluid, dose, cohort.preprocessing)
    tube = torch.from_numpy(unread.ventilated).float()
    state = stays.run_on(stays.states[:, 0], stays.doses[:, 0], tube, stays.states[:, 1])
    given = torch.from_numpy(dose_inputs(fluid, dose, cohort.preprocessing))
    np.testing.assert_allclose(stays.inputs(state, given), shown, atol=2e-4)
    assert not unread.measured.any()
    assert np.abs(shown[:, -1]).max() > 0.5


class Recorder:
    """A network that promises the same change of everything, and remembers what it was shown."""

    members, hidden, rise = 1, 1, 0.25

    def __init__(self):
        self.shown = []

    def __call__(self, inputs, memory, kept=None, *, aside=False):
        self.shown.append(inputs[0])
        outputs = torch.zeros(*inputs.shape[:-1], N_OUTPUTS)
        outputs[..., :N_FEATURES] = self.rise
        return outputs, memory


def test_on_its_own_a_network_is_shown_what_it_read_last_or_its_own_predictions(cohort):
    whole = Sequences.of(cohort, "cpu")
    stays = whole.take(whole.mask.sum(1).argsort()[-8:])  # the longest last: all are walked on
    steps, heart_rate = stays.mask.shape[1], FEATURE_INDEX["heart_rate"]
    simulated = torch.arange(8) < 4
    network, weight, switch = Recorder(), torch.ones(1, 8), torch.full((8,), 2)
    sequence_loss(network, stays, weight, switch, simulated=simulated)
    shown = torch.stack(network.shown, 1)[..., heart_rate]
    logged = stays.states[:, :steps, heart_rate]
    measured = stays.states[:, :steps, N_FEATURES + heart_rate] > 0
    torch.testing.assert_close(shown[:, :2], logged[:, :2])
    for n in range(8):
        last = shown[n, 1]
        for t in range(2, int(stays.mask[n].sum())):
            if simulated[n] and measured[n, t]:
                last = last + network.rise
            elif simulated[n] and not stays.known[n, t, heart_rate]:
                last = logged[n, t]  # the fill value
            assert shown[n, t] == pytest.approx(float(last))
    masks = torch.stack(network.shown, 1)[..., N_FEATURES : 2 * N_FEATURES]
    torch.testing.assert_close(
        masks[simulated, 2:], stays.states[simulated, 2:steps, N_FEATURES : 2 * N_FEATURES]
    )
    assert not masks[~simulated, 2:].any()


def test_a_checkpoint_gives_the_same_trajectories(trained):
    model, folder = trained
    loaded = load_world_model(folder)
    assert loaded.preprocessing == model.preprocessing
    states = []
    for one in (model, loaded):
        rng = np.random.default_rng(5)
        patients = one.start(20, rng)
        for _ in range(4):
            patients = one.step(patients, np.full(20, 100.0), np.full(20, 0.1), rng).patients
        states.append(patients)
    same(*states)


def test_simulate_draws_nothing_and_moves_nothing(trained):
    model, _ = trained
    patients = model.start(1, np.random.default_rng(0))
    before = replace(patients, **{n: getattr(patients, n).copy() for n in ("values", "memory")})
    doses = np.array([0.0, 500.0]), np.array([0.0, 0.2])
    one, two = model.simulate(patients, *doses), model.simulate(patients, *doses)
    same(patients, before)
    np.testing.assert_array_equal(one.values, two.values)
    assert (one.spread[:, 0] <= one.values + 1e-4).all()
    assert (one.spread[:, 1] >= one.values - 1e-4).all()


def test_it_learns_persistence_effects_and_outcomes(trained, cohort):
    model, _ = trained
    test = cohort.split("test")
    numbers = evaluate_fidelity(model, test)
    persistence = evaluate_fidelity(Persistence(model.preprocessing), test)
    assert numbers["one_step_mae"] < 0.95 * persistence["one_step_mae"]
    assert numbers["open_loop_12_mae"] < 0.9 * persistence["open_loop_12_mae"]
    assert 0.86 < numbers["interval_90_coverage"] < 0.94
    # 246 stays teach little of who dies: it takes many others to see it
    many = assemble(dynamic_cohort(800, 1), AssemblyConfig(), source="others", credentialed=False)
    others = in_scales_of(many, model.preprocessing)
    assert evaluate_fidelity(model, others)["mortality_auroc_at_end"] > 0.52
    assert np.isnan(numbers["death_in_step_auroc"])  # nobody dies in the unit: no AUROC of that
    rows = test.offsets[:-1]
    doses = np.zeros(len(rows)), np.full(len(rows), 0.25)
    fluid = np.full(len(rows), 100.0)
    means = [model.predict(test.patients(rows), fluid, dose)["mean"][:, MAP] for dose in doses]
    contrast = (means[1] - means[0]) * cohort.preprocessing.scale[MAP]
    assert contrast.mean() == pytest.approx(EFFECT_MMHG, rel=0.25)


def test_following_a_log_is_what_training_saw(trained, cohort):
    model, _ = trained
    first, second = (cohort.patients(cohort.offsets[:3] + t) for t in (0, 1))
    followed = model.follow(first, second)
    rng = np.random.default_rng(0)
    stepped = model.step(
        first, second.previous_fluid_ml, second.previous_norepinephrine_equivalent, rng
    ).patients
    hidden = (..., slice(model.hidden))  # then come the member and what lasts, left open
    np.testing.assert_allclose(followed.memory[hidden], stepped.memory[hidden], atol=1e-5)
    np.testing.assert_array_equal(followed.values, second.values)


def test_start_states_resemble_the_training_ones_without_copying_any(cohort):
    train = cohort.split("train")
    starts = StartStates.fit(train)
    drawn = starts.draw(4000, cohort.preprocessing, np.random.default_rng(1))
    logged = train.patients(train.offsets[:-1])
    spread = logged.values.std(0)
    assert (np.abs(drawn.values.mean(0) - logged.values.mean(0)) < 0.25 * spread).all()
    assert np.abs(drawn.measured.mean(0) - logged.measured.mean(0)).max() < 0.08
    assert drawn.ventilated.mean() == pytest.approx(logged.ventilated.mean(), abs=0.05)
    some = drawn.previous_norepinephrine_equivalent > 0
    assert some.mean() == pytest.approx(
        (logged.previous_norepinephrine_equivalent > 0).mean(), abs=0.05
    )
    age = logged.static[:, 0]
    assert drawn.static[:, 0].min() > age.min()
    assert drawn.static[:, 0].max() < age.max()


def test_a_measured_start_value_is_drawn_from_the_measured_ones():
    raw = dynamic_cohort(600, seed=3)
    albumin = FEATURE_INDEX["albumin"]
    raw.raw[np.random.default_rng(0).random(len(raw.raw)) < 0.7, albumin] = np.nan
    train = assemble(raw, AssemblyConfig(), source="x", credentialed=False).split("train")
    logged = train.patients(train.offsets[:-1])
    drawn = StartStates.fit(train).draw(5000, train.preprocessing, np.random.default_rng(1))
    known = logged.values[logged.measured[:, albumin], albumin]
    shown = drawn.values[drawn.measured[:, albumin], albumin]
    assert len(shown) / 5000 == pytest.approx(logged.measured[:, albumin].mean(), abs=0.03)
    assert shown.std() == pytest.approx(known.std(), rel=0.15)
    fill = np.float32(train.preprocessing.fill[albumin])
    assert (np.abs(shown - fill) < 1e-3).mean() < 0.05
    given = drawn.previous_norepinephrine_equivalent
    assert given[given > 0].min() >= 0.05  # the smallest dose: none between it and zero


def test_too_few_known_values_are_not_described():
    raw = dynamic_cohort(200, seed=4)
    bilirubin = FEATURE_INDEX["bilirubin_total"]
    raw.raw[100:, bilirubin] = np.nan
    train = assemble(raw, AssemblyConfig(), source="x", credentialed=False).split("train")
    starts = StartStates.fit(train)
    drawn = starts.draw(2000, train.preprocessing, np.random.default_rng(1))
    assert (starts.quantiles[bilirubin] == 0).all()
    assert not drawn.measured[:, bilirubin].any()


class RepeatedRows:
    """A generator whose every row is the one that ``rng`` gives a single patient."""

    def __init__(self, rng, n):
        self.rng, self.n = rng, n

    def standard_normal(self, size, dtype):
        return np.repeat(self.rng.standard_normal((1, *size[1:]), dtype=dtype), self.n, 0)

    def random(self, size, dtype):
        return np.repeat(self.rng.random((1, *size[1:]), dtype=dtype), self.n, 0)

    def integers(self, high, size):
        return np.repeat(self.rng.integers(high, size=1), size)


def test_a_patient_alone_walks_as_in_a_batch(trained):
    model, _ = trained
    alone = model.start(1, np.random.default_rng(3))
    batch = alone.take(np.zeros(5, np.int64))
    one, many = np.random.default_rng(9), RepeatedRows(np.random.default_rng(9), 5)
    for _ in range(6):
        alone = model.step(alone, np.full(1, 80.0), np.full(1, 0.1), one).patients
        batch = model.step(batch, np.full(5, 80.0), np.full(5, 0.1), many).patients
        np.testing.assert_array_equal(batch.age[3], alone.age[0])
        np.testing.assert_allclose(batch.values[3], alone.values[0], rtol=1e-3, atol=1e-3)


def test_logged_stays_are_shared_out_among_the_members(trained, cohort):
    model, _ = trained
    patients, rng = cohort.patients(np.arange(300)), np.random.default_rng(0)
    moved = model.step(patients, np.full(300, 80.0), np.full(300, 0.1), rng).patients
    share = moved.memory[:, :, model.hidden].mean(0)
    assert (share > 0.2).all()
    again = model.step(moved, np.full(300, 80.0), np.full(300, 0.1), rng).patients
    drawn = (..., slice(model.hidden, None))
    np.testing.assert_array_equal(again.memory[drawn], moved.memory[drawn])


def test_interrupted_training_goes_on_to_the_same_model(cohort, tmp_path, monkeypatch):
    whole = train_world_model(cohort, tmp_path / "whole", QUICK)
    from world_models import training

    train_epoch = training._Run.train_epoch

    def killed_in_the_third_epoch(run):
        if run.epoch == 2:
            raise KeyboardInterrupt
        train_epoch(run)

    monkeypatch.setattr(training._Run, "train_epoch", killed_in_the_third_epoch)
    with pytest.raises(KeyboardInterrupt):
        train_world_model(cohort, tmp_path / "cut", QUICK)
    assert not (tmp_path / "cut").exists()
    monkeypatch.setattr(training._Run, "train_epoch", train_epoch)
    resumed = train_world_model(cohort, tmp_path / "cut", QUICK)
    for name, weight in whole.weights.items():
        np.testing.assert_array_equal(weight, resumed.weights[name], err_msg=name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "whole"]


def test_what_another_format_left_unfinished_begins_anew(cohort, tmp_path, monkeypatch):
    from world_models import training

    train_epoch, begun = training._Run.train_epoch, []

    def killed_in_the_second_epoch(run):
        begun.append(run.epoch)
        if len(begun) == 2:
            raise KeyboardInterrupt
        train_epoch(run)

    monkeypatch.setattr(training._Run, "train_epoch", killed_in_the_second_epoch)
    with monkeypatch.context() as before:
        before.setattr(training, "FORMAT_VERSION", training.FORMAT_VERSION - 1)
        with pytest.raises(KeyboardInterrupt):
            train_world_model(cohort, tmp_path / "cut", QUICK)
    train_world_model(cohort, tmp_path / "cut", QUICK)
    assert begun == [0, 1, *range(QUICK.epochs)]


def test_training_goes_on_from_an_earlier_model(trained, raw_cohort, tmp_path):
    earlier, folder = trained
    other = assemble(raw_cohort, AssemblyConfig(), source="x", credentialed=False)
    config = replace(QUICK, init=str(folder), learning_rate=1e-6)
    model = train_world_model(other, tmp_path / "tuned", config)
    assert (model.members, model.hidden) == (earlier.members, earlier.hidden)
    assert model.preprocessing == earlier.preprocessing
    for name, weight in earlier.weights.items():  # steps this small hardly leave it
        if name not in ("output_weight", "output_bias", "direct_weight"):  # calibrated before
            np.testing.assert_allclose(model.weights[name], weight, atol=1e-3, err_msg=name)
    assert load_world_model(tmp_path / "tuned").preprocessing == earlier.preprocessing


def test_what_cannot_be_loaded_or_trained_is_named(trained, raw_cohort, tmp_path):
    with pytest.raises(UnknownNameError, match=r"'nowhere'; there are .*default"):
        load_world_model("nowhere")
    _, folder = trained
    broken = tmp_path / "broken"
    broken.mkdir()
    description = (folder / "model.json").read_text()
    (broken / "model.json").write_text(description)
    (broken / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:900])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_world_model(broken)
    arrays = load_file(folder / "model.safetensors")
    for name, spoilt, message in (
        ("output_bias", np.full_like(arrays["output_bias"], np.nan), "not finite"),
        ("head_weight", arrays["head_weight"][:, :-1].copy(), r"model\.safetensors"),
    ):
        save_file(arrays | {name: spoilt}, broken / "model.safetensors")
        digest = hashlib.sha256((broken / "model.safetensors").read_bytes()).hexdigest()
        changed = json.loads(description) | {"weights_sha256": digest}
        (broken / "model.json").write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match=message):
            load_world_model(broken)
    (broken / "model.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"model\.json"):
        load_world_model(broken)
    (broken / "model.json").write_text(json.dumps({"format_version": 99}))
    with pytest.raises(CheckpointError, match=r"model\.json: format_version 99"):
        load_world_model(broken)
    same_window = assemble(
        raw_cohort, AssemblyConfig(alignment="same_window"), source="x", credentialed=False
    )
    with pytest.raises(ConfigError, match="causal"):
        train_world_model(same_window, tmp_path / "leaky")
    with pytest.raises(ConfigError, match="hidden"):
        TrainConfig(hidden=0)


@pytest.mark.parametrize("step_hours", [1, 8])
def test_other_clocks_train_and_open_as_environments(tmp_path, step_hours):
    raw = dynamic_cohort(60)
    if step_hours == 8:  # nine decisions at most
        kept = np.arange(raw.offsets[-1]) - np.repeat(raw.offsets[:-1], np.diff(raw.offsets)) < 10
        lengths = np.minimum(np.diff(raw.offsets), 10)
        rows = {
            name: getattr(raw, name)[kept]
            for name in ("raw", "ventilated", "fluid_ml", "norepinephrine_equivalent", "sofa_24h")
        }
        raw = replace(raw, offsets=np.concatenate([[0], np.cumsum(lengths)]), **rows)
    config = AssemblyConfig(step_hours=step_hours)
    stays = assemble(raw, config, source="AR(1) stays", credentialed=False)
    env = SepsisEnv(train_world_model(stays, tmp_path / "model", replace(QUICK, epochs=1)))
    env.reset(seed=0)
    _, _, _, _, info = env.step(0)
    assert info["hours"] == 2 * step_hours
    assert env.preprocessing.max_steps == 72 // step_hours


def test_simulated_vitals_fit_together():
    model = load_world_model("default")
    rng = np.random.default_rng(0)
    patients = model.start(500, rng)
    fluid, dose = np.full(500, 100.0), np.full(500, 0.05)
    low, impossible = [], []
    for _ in range(8):
        patients = model.step(patients, fluid, dose, rng).patients
        sysbp, diabp, meanbp = (
            patients.values[:, FEATURE_INDEX[name]] for name in ("sysbp", "diabp", "meanbp")
        )
        impossible.append((diabp > meanbp) | (meanbp > sysbp))
        low.append(np.corrcoef(diabp, meanbp)[0, 1])
    assert np.mean(impossible) < 0.02
    assert min(low) > 0.8


def test_weights_of_another_description_are_refused(trained, tmp_path):
    _, folder = trained
    shipped = Path(world_models.__file__).parent / "checkpoints" / "default"
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "model.json").write_bytes((folder / "model.json").read_bytes())
    (mixed / "model.safetensors").write_bytes((shipped / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"not the file that model\.json describes"):
        load_world_model(mixed)


def test_a_damaged_training_state_begins_anew(cohort, tmp_path, monkeypatch):
    from world_models import training

    whole = train_world_model(cohort, tmp_path / "whole", QUICK)
    train_epoch = training._Run.train_epoch

    def killed_in_the_second_epoch(run):
        if run.epoch == 1:
            raise KeyboardInterrupt
        train_epoch(run)

    with monkeypatch.context() as patched:
        patched.setattr(training._Run, "train_epoch", killed_in_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            train_world_model(cohort, tmp_path / "cut", QUICK)
    state = tmp_path / ".cut-training" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-500])
    again = train_world_model(cohort, tmp_path / "cut", QUICK)
    for name, weight in whole.weights.items():
        np.testing.assert_array_equal(weight, again.weights[name], err_msg=name)
