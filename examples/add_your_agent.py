"""An agent of your own, in the benchmark's table beside all others.

Usage: sepsis-gym benchmark agents --cohort COHORT --out runs/mine --agents
           examples/add_your_agent.py:PressureAgent guideline

In a package of its own, the entry point group ``sepsis_gym.agents`` gives it a name. An agent that
learns has ``train`` as well: see ``agents.policy.TrainableAgent``.
"""

import numpy as np

from agents import BatchPolicy
from sepsis_gym.actions import N_ACTIONS, encode_action
from sepsis_gym.features import FEATURE_INDEX


class PressureAgent(BatchPolicy):
    """Vasopressor for a pressure far below this cohort's average, a little fluid for everybody."""

    def batch_probabilities(self, observations):
        """Action probabilities [n, 25] of observations [n, 107], which begin with 39 z-scores."""
        low = observations[:, FEATURE_INDEX["meanbp"]] < -1
        return np.eye(N_ACTIONS)[encode_action(1, np.where(low, 2, 0))]
