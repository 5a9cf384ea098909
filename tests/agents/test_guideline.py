"""What the guideline gives to whom, in clinical units, on any cohort's grid."""

from dataclasses import replace

import numpy as np
import pytest

from agents import load_agent, train_agent
from agents.guideline import GuidelineAgent, GuidelineConfig
from sepsis_gym.actions import ActionBins, decode_action
from sepsis_gym.errors import ConfigError
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.patients import decode_observation, encode_observation

KOMOROWSKI = ActionBins()


@pytest.fixture
def give(toy_model, trajectories):
    """Levels of fluid and vasopressor for one patient with these values."""
    scales = replace(trajectories.preprocessing, action_bins=KOMOROWSKI)

    def levels(*, step=3, level=0, given_ml=0.0, **values):
        patient = toy_model.start(1, np.random.default_rng(0))
        state = patient.values.copy()
        for name, value in ({"lactate": 1.0, "fio2": 0.3, "meanbp": 70.0} | values).items():
            state[0, FEATURE_INDEX[name]] = value
        shown = replace(
            patient,
            values=state,
            step=np.array([step]),
            previous_fluid_ml=np.array([given_ml], np.float32),
            previous_norepinephrine_equivalent=np.array(
                [KOMOROWSKI.vasopressor_doses[level]], np.float32
            ),
        )
        chosen = GuidelineAgent(scales).choose(encode_observation(shown, scales))
        return tuple(int(x.item()) for x in decode_action(chosen))

    return levels


def test_norepinephrine_goes_up_below_the_target_and_down_above(give):
    assert give(meanbp=70, level=2) == (0, 2)
    assert give(meanbp=60, level=2)[1] == 3
    assert give(meanbp=50, level=2)[1] == 4
    assert give(meanbp=80, level=2) == (0, 1)
    assert give(meanbp=80, level=0) == (0, 0)
    assert give(meanbp=50, level=4)[1] == 4


def test_fluid_follows_lactate_and_stops_where_the_lungs_fill(give):
    assert give() == (0, 0)
    assert give(lactate=3.0) == (3, 0)  # 500 mL
    assert give(lactate=3.0, fio2=0.7) == (0, 0)
    assert give(meanbp=60)[0] == 3


def test_the_first_dose_is_what_30_ml_kg_leave(give):
    assert give(step=0, meanbp=60)[0] == 4
    assert give(step=0, lactate=5.0)[0] == 4
    assert give(step=0, lactate=3.0)[0] == 3  # high, but no shock
    assert give(step=0)[0] == 0


def test_it_takes_scales_only_and_survives_the_disk(trajectories, tmp_path):
    agent = train_agent("guideline", trajectories, tmp_path / "a", seed=4)
    seen = trajectories.observations()
    loaded = load_agent(tmp_path / "a")
    assert np.array_equal(loaded.batch_probabilities(seen), agent.batch_probabilities(seen))
    assert len(np.unique(agent.choose(seen))) > 5
    with pytest.raises(ConfigError, match="must rise"):
        GuidelineConfig(map_wean_mmhg=60)


def test_decoding_an_observation_undoes_encoding(trajectories):
    scales = trajectories.preprocessing
    seen = trajectories.observations()
    told = decode_observation(seen, scales)
    assert np.allclose(encode_observation(told, scales), seen, atol=1e-5)
    known = trajectories.patients(np.arange(len(seen))).known(scales)
    assert np.mean(told.known(scales) == known) > 0.99
    assert np.array_equal(told.step, trajectories.step)
