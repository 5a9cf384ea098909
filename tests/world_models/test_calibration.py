from dataclasses import replace

import pytest

from sepsis_gym.features import FEATURE_INDEX, N_FEATURES

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from world_models.calibration import calibrate  # noqa: E402
from world_models.inputs import Z_INPUTS  # noqa: E402
from world_models.network import EnsembleNetwork  # noqa: E402
from world_models.sequences import Sequences  # noqa: E402

MAP, HEART_RATE = FEATURE_INDEX["meanbp"], FEATURE_INDEX["heart_rate"]
OFFSET, SLOPE, PULL = 0.3, 0.5, -0.2


@pytest.fixture
def network():
    drawn = EnsembleNetwork(2, 8, torch.Generator().manual_seed(0))
    with torch.no_grad():
        drawn.output_weight *= 20  # so that what it says differs from patient to patient
    return drawn.requires_grad_(False)


@pytest.fixture
def stays(trajectories, network):
    """Stays that change as the first member says, but for three numbers."""
    logged = Sequences.of(trajectories, "cpu")
    memory = torch.zeros(2, len(logged), network.hidden)
    for t in range(logged.mask.shape[1]):
        level = logged.states[:, t, Z_INPUTS]
        said, memory = changes(network, logged, t, memory)
        logged.states[:, t + 1, Z_INPUTS] = level + OFFSET + SLOPE * said[0] + PULL * level
    return logged


def changes(network, stays, t, memory, doses=None):
    """[M, N, 39] what the network says of a step, and its memory after it."""
    given = stays.doses[:, t] if doses is None else doses
    inputs = stays.inputs(stays.states[:, t], given).expand(2, -1, -1)
    outputs, memory = network(inputs, memory)
    return outputs[..., :N_FEATURES], memory


def error(network, stays):
    """[M] mean absolute error of the changes in measured values."""
    memory, errors = torch.zeros(2, len(stays), network.hidden), []
    for t in range(stays.mask.shape[1]):
        said, memory = changes(network, stays, t, memory)
        after = stays.states[:, t + 1]
        true = after[:, Z_INPUTS] - stays.states[:, t, Z_INPUTS]
        counted = (after[:, N_FEATURES : 2 * N_FEATURES] > 0) & stays.mask[:, t, None]
        errors.append((said - true).abs()[:, counted])
    return torch.cat(errors, 1).mean(1)


def test_offset_slope_and_pull_are_found(network, stays):
    before = error(network, stays)
    calibrate(network, stays)
    assert before[0] > 0.2
    assert error(network, stays)[0] < 0.1 * before[0]


def test_what_was_not_measured_does_not_count(network, stays):
    states = stays.states.clone()
    final, stay = stays.mask.sum(1), torch.arange(len(stays))
    measured = states[stay, final, N_FEATURES : 2 * N_FEATURES] > 0
    states[stay, final, Z_INPUTS] += torch.where(measured, 0.0, 5.0)
    other = EnsembleNetwork(2, 8, torch.Generator()).requires_grad_(False)
    other.load_state_dict(network.state_dict())
    calibrate(network, stays)
    calibrate(other, replace(stays, states=states))
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], weight, rtol=0, atol=0)


def test_effects_that_training_is_told_stay_what_they_were(network, stays):
    effect = torch.full_like(stays.effect, torch.nan)
    effect[..., MAP] = 0.0
    stays = replace(stays, effect=effect)

    def rise():
        memory = torch.zeros(2, len(stays), network.hidden)
        given, none = torch.ones_like(stays.doses[:, 0]), torch.zeros_like(stays.doses[:, 0])
        said = [changes(network, stays, 0, memory, doses)[0] for doses in (given, none)]
        return said[0] - said[1]

    before, error_before = rise(), error(network, stays)
    calibrate(network, stays)
    torch.testing.assert_close(rise()[..., MAP], before[..., MAP])
    slope = rise()[0, :, HEART_RATE] / before[0, :, HEART_RATE]
    torch.testing.assert_close(slope, torch.full_like(slope, SLOPE), atol=0.1, rtol=0)
    assert (error(network, stays) < error_before).all()
