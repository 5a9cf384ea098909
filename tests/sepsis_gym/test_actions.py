import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepsis_gym.actions import (
    N_ACTIONS,
    NOREPINEPHRINE_EQUIVALENT_WEIGHTS,
    ActionBins,
    check_actions,
    decode_action,
    encode_action,
)
from sepsis_gym.errors import ConfigError, InvalidActionError


def test_action_id_is_five_fluid_plus_vasopressor():
    assert encode_action(3, 2) == 17
    assert decode_action(17) == (3, 2)
    np.testing.assert_array_equal(
        encode_action(*decode_action(np.arange(N_ACTIONS))), np.arange(N_ACTIONS)
    )


def test_published_cuts_are_right_closed():
    bins = ActionBins()
    np.testing.assert_array_equal(
        bins.fluid_level([0, 0.1, 50, 50.1, 180, 180.1, 530, 530.1]), [0, 1, 1, 2, 2, 3, 3, 4]
    )
    np.testing.assert_array_equal(
        bins.vasopressor_level([0, 0.08, 0.09, 0.22, 0.45, 0.46]), [0, 1, 2, 2, 3, 4]
    )


@given(st.integers(0, N_ACTIONS - 1))
def test_doses_of_an_action_lie_in_its_own_cell(action):
    bins = ActionBins()
    fluid, vasopressor = bins.doses(action)
    assert bins.action(fluid, vasopressor) == action


@given(
    st.lists(st.floats(0.01, 5000), min_size=20, max_size=200, unique=True),
    st.lists(st.floats(0.001, 5), min_size=20, max_size=200, unique=True),
)
def test_fitted_levels_are_quartiles_of_the_non_zero_doses(fluid, vasopressor):
    bins = ActionBins.fit([0.0] * 50 + fluid, [0.0] * 50 + vasopressor, source="test")
    counts = np.bincount(bins.fluid_level(fluid), minlength=5)
    assert counts[0] == 0
    assert counts[1:].max() - counts[1:].min() <= 2
    assert bins.fluid_level(0.0) == 0
    assert ActionBins.from_dict(json.loads(json.dumps(bins.to_dict()))) == bins


def test_too_few_doses_keep_the_published_cuts_and_say_so():
    bins = ActionBins.fit([0, 10, 20, 30, 40, 50, 60, 70, 80], [0, 0.1, 0.1], source="tiny")
    assert bins.vasopressor_edges == ActionBins().vasopressor_edges
    assert bins.fluid_edges != ActionBins().fluid_edges
    assert "vasopressor: Komorowski" in bins.source


@pytest.mark.parametrize("bad", [-1, 25, 3.5, float("nan")])
def test_bad_actions_are_named(bad):
    with pytest.raises(InvalidActionError, match=r"0 to 24.*got .*"):
        check_actions([0, bad])


def test_bad_levels_edges_and_doses_are_refused():
    with pytest.raises(InvalidActionError, match="fluid level"):
        encode_action(5, 0)
    with pytest.raises(ConfigError, match="rise"):
        ActionBins(fluid_edges=(50, 40, 530))
    with pytest.raises(ConfigError, match="do not lie"):
        ActionBins(fluid_doses=(0, 60, 85, 320, 946))
    with pytest.raises(ConfigError, match="zero or positive"):
        ActionBins().fluid_level(-1.0)


@pytest.mark.parametrize(("weights", "expected"), [("goradia", 0.1), ("komorowski", 0.2)])
def test_vasopressin_weight_is_per_unit_and_hour(weights, expected):
    # 2.4 units/h = 0.04 units/min = 0.1 or 0.2 ug/kg/min norepinephrine equivalent
    weight = NOREPINEPHRINE_EQUIVALENT_WEIGHTS[weights]["vasopressin"]
    assert 2.4 * weight == pytest.approx(expected)


def test_a_dose_that_equals_an_edge_stays_in_its_level():
    bins = ActionBins(vasopressor_edges=(0.1, 0.2, 0.3), vasopressor_doses=(0, 0.1, 0.2, 0.3, 0.4))
    actions = np.arange(N_ACTIONS)
    np.testing.assert_array_equal(bins.action(*bins.doses(actions)), actions)
