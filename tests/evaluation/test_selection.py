"""Choosing by the validation split, of which only that split is read."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_raw_cohort

from agents import make_agent
from evaluation import validation_value
from sepsis_gym.actions import decode_action
from sepsis_gym.cohort.assemble import AssemblyConfig, assemble
from sepsis_gym.errors import UnknownNameError
from sepsis_gym.trajectories import Trajectories


@pytest.fixture(scope="module")
def paid_by_fluid() -> Trajectories:
    """Each decision pays its fluid level."""
    cohort = assemble(make_raw_cohort(800), AssemblyConfig(), source="paid", credentialed=False)
    paid = np.where(cohort.is_decision, decode_action(np.maximum(cohort.action, 0))[0], np.nan)
    return replace(cohort, reward=paid)


def test_value_is_that_of_the_policy(paid_by_fluid):
    value = validation_value(paid_by_fluid, gamma=0.0)
    assert value(make_agent("fixed_dose", action=20)) == pytest.approx(4, abs=0.15)
    assert value(make_agent("fixed_dose", action=5)) == pytest.approx(1, abs=0.15)
    assert value(make_agent("random")) == pytest.approx(2, abs=0.15)
    later = validation_value(paid_by_fluid, gamma=0.9)
    assert later(make_agent("fixed_dose", action=20)) > later(make_agent("random")) + 2


def test_no_test_stay_is_read(paid_by_fluid):
    agent = make_agent("fixed_dose", action=5)
    held_out = paid_by_fluid.stays.split[paid_by_fluid.stay_of_row] == "test"
    spoilt = replace(paid_by_fluid, reward=np.where(held_out, 1e6, paid_by_fluid.reward))
    values = [validation_value(log, gamma=0.9)(agent) for log in (paid_by_fluid, spoilt)]
    assert values[0] == values[1]


def test_needs_a_validation_split(paid_by_fluid):
    with pytest.raises(UnknownNameError, match="validation split"):
        validation_value(paid_by_fluid.split("train"), gamma=0.9)
