"""Agents without training: the rows that every table of results needs beside the others."""

from typing import Self

import numpy as np
from numpy.typing import NDArray

from agents.policy import AgentRecord, BatchPolicy, one_hot
from sepsis_gym.actions import N_ACTIONS, check_actions


class RandomAgent(BatchPolicy):
    """Draws uniformly from the 25 actions."""

    def batch_probabilities(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        """Action probabilities [n, 25] of observations [n, 107]."""
        return np.full((len(observations), N_ACTIONS), 1 / N_ACTIONS)

    def to_record(self) -> AgentRecord:
        """What is stored."""
        return AgentRecord(config={"seed": self.seed})

    @classmethod
    def from_record(cls, record: AgentRecord) -> Self:
        """The agent that was stored."""
        return cls(**record.config)


class FixedDoseAgent(BatchPolicy):
    """Gives everybody the same.

    ``action=5`` is constant low fluid, ``action=24`` the highest dose of both.
    """

    def __init__(self, action: int) -> None:
        """Takes the action, 0-24.

        Raises:
            InvalidActionError: It is none of the 25.
        """
        super().__init__()
        self.action = int(check_actions(action))

    def batch_probabilities(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        """Action probabilities [n, 25] of observations [n, 107]."""
        return one_hot(np.full(len(observations), self.action))

    def to_record(self) -> AgentRecord:
        """What is stored."""
        return AgentRecord(config={"action": self.action})

    @classmethod
    def from_record(cls, record: AgentRecord) -> Self:
        """The agent that was stored."""
        return cls(**record.config)


class NoTreatmentAgent(FixedDoseAgent):
    """Gives no fluid and no vasopressor."""

    def __init__(self) -> None:
        """Takes no settings."""
        super().__init__(action=0)

    def to_record(self) -> AgentRecord:
        """What is stored: nothing but the name."""
        return AgentRecord()
