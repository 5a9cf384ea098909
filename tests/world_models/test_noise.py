from dataclasses import dataclass, replace

import numpy as np
import pytest
from conftest import make_raw_cohort

from sepsis_gym.cohort.assemble import AssemblyConfig, assemble
from sepsis_gym.features import FEATURE_INDEX, N_FEATURES
from world_models import load_world_model
from world_models.noise import SCORES, Noise, fit_noise
from world_models.references import Persistence

MAP, SYSBP, LACTATE = (FEATURE_INDEX[name] for name in ("meanbp", "sysbp", "lactate"))
N = 60_000


@dataclass(frozen=True)
class Unsure(Persistence):
    """Expects no change, and says that it errs by one."""

    def predict(self, patients, fluid_ml, norepinephrine_equivalent):
        said = super().predict(patients, fluid_ml, norepinephrine_equivalent)
        return said | {"scale": np.ones_like(said["mean"])}


@pytest.fixture(scope="module")
def cohort():
    """Stays whose MAP errs by skewed amounts, in which a third is the patient's own."""
    raw = make_raw_cohort(400)
    rng = np.random.default_rng(1)
    lengths = np.diff(raw.offsets)
    own = np.repeat(rng.standard_normal(len(lengths)), lengths)
    shock = np.sqrt(1 / 3) * own + np.sqrt(2 / 3) * rng.standard_normal(len(own))
    # the change of each step, so that persistence errs by just this
    moved = np.exp(0.8 * shock)
    walk = np.cumsum(moved)
    first = np.repeat(walk[raw.offsets[:-1]], lengths)
    raw.raw[:, MAP] = 60 + (walk - first)
    raw.raw[:, SYSBP] = 100 + 1.5 * (walk - first)
    return assemble(raw, AssemblyConfig(), source="x", credentialed=False)


@pytest.fixture(scope="module")
def fitted(cohort):
    return fit_noise(Unsure(cohort.preprocessing), cohort)


def seen(cohort, feature):
    """Errors of persistence, z units."""
    rows = np.flatnonzero(cohort.is_decision)
    z = cohort.preprocessing.standardize(cohort.values)[:, feature]
    return (z[rows + 1] - z[rows])[cohort.measured[rows + 1, feature]]


@pytest.mark.parametrize("feature", [MAP, LACTATE])
def test_errors_drawn_have_the_mean_the_skew_and_the_tails_of_those_seen(cohort, fitted, feature):
    rng = np.random.default_rng(2)
    draws = rng.standard_normal((N, N_FEATURES), dtype=np.float32)
    drawn = fitted.errors(draws, fitted.draw_lasting(N, rng))[:, feature]
    truth = seen(cohort, feature)
    assert drawn.mean() == pytest.approx(truth.mean(), abs=0.03 * float(truth.std()))
    for share in (0.02, 0.1, 0.5, 0.9, 0.98):
        off = np.quantile(drawn, share) - np.quantile(truth, share)
        assert abs(off) < 0.1 * truth.std(), share
    gaussian = truth.mean() + np.array([-2.05, 2.05]) * truth.std()
    if feature == MAP:  # which a symmetric distribution would miss
        assert abs(gaussian[0] - np.quantile(truth, 0.02)) > 0.5 * truth.std()


def test_a_patient_keeps_its_share_of_the_errors(fitted):
    assert fitted.lasting[MAP] == pytest.approx(0.28, abs=0.08)  # of log-normal ones
    assert fitted.lasting[LACTATE] < 0.05
    rng = np.random.default_rng(3)
    kept = fitted.draw_lasting(N, rng)
    twice = [
        fitted.errors(rng.standard_normal((N, N_FEATURES), dtype=np.float32), kept) for _ in "12"
    ]
    together = [np.corrcoef(twice[0][:, i], twice[1][:, i])[0, 1] for i in (MAP, LACTATE)]
    assert together[0] == pytest.approx(0.25, abs=0.08)
    assert abs(together[1]) < 0.05


def test_errors_of_one_step_go_together(cohort, fitted):
    rng = np.random.default_rng(4)
    draws = rng.standard_normal((N, N_FEATURES), dtype=np.float32)
    drawn = fitted.errors(draws, fitted.draw_lasting(N, rng))
    assert np.corrcoef(drawn[:, MAP], drawn[:, SYSBP])[0, 1] > 0.7
    assert abs(np.corrcoef(drawn[:, MAP], drawn[:, LACTATE])[0, 1]) < 0.05


def test_independent_noise_is_what_the_network_says():
    noise, rng = Noise.independent(), np.random.default_rng(5)
    draws = rng.standard_normal((200, N_FEATURES), dtype=np.float32)
    errors = noise.errors(draws, noise.draw_lasting(200, rng))
    np.testing.assert_allclose(errors, np.clip(draws, SCORES[0], SCORES[-1]), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "array", "named"),
    [
        ("factor", np.zeros((39, 39), np.float32), "row of zeros"),
        ("factor", np.eye(5, dtype=np.float32), "factor must be"),
        ("quantiles", np.zeros((39, 9), np.float32), "quantiles must be"),
        ("lasting", np.full(39, 1.5, np.float32), "lasting must lie"),
    ],
)
def test_noise_that_cannot_be_is_refused_before_compiled_code_reads_it(name, array, named):
    with pytest.raises(ValueError, match=named):
        replace(Noise.independent(), **{name: array})


def test_a_simulated_patient_keeps_what_it_has_of_the_errors():
    model = load_world_model("default")
    rng = np.random.default_rng(6)
    patients = model.start(500, rng)
    kept = patients.memory[:, :, model.hidden + 1 :].reshape(500, -1)[:, :N_FEATURES]
    expected = np.sqrt(model.noise.lasting)
    np.testing.assert_allclose(kept.std(0), expected, atol=0.2 * expected.max())
    moved = model.step(patients, np.zeros(500), np.zeros(500), rng).patients
    columns = slice(model.hidden + 1, None)
    np.testing.assert_array_equal(moved.memory[:, :, columns], patients.memory[:, :, columns])
