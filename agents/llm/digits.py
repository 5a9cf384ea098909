"""The language model as a policy: its action probabilities read off its tokens."""

import copy
from typing import Self

import numpy as np
from numpy.typing import NDArray

from agents.llm import prompt
from agents.llm.agent import LLMAgent
from agents.llm.backend import ChatBackend, shares_of
from sepsis_gym.actions import N_ACTIONS, N_LEVELS
from sepsis_gym.agent import Agent, Info
from sepsis_gym.preprocessing import Preprocessing

_LEVELS = tuple(map(str, range(N_LEVELS)))


class LLMDigitAgent(LLMAgent):
    """Asks a chat model for the fluid level as one digit, and given each for the vasopressor level.

    Six requests of one token give all 25 probabilities, exact where a tool-calling agent has one
    reply or some samples. It sees what that agent sees but cannot simulate. Where the likeliest
    token is no level, the fallback's probabilities stand, and are counted.
    """

    def __init__(
        self,
        backend: ChatBackend,
        preprocessing: Preprocessing,
        *,
        fallback: Agent,
        workers: int = 1,
        seed: int = 0,
    ) -> None:
        """Sets the agent up.

        Args:
            backend: The chat model; its server must give token log-probabilities.
            preprocessing: Clock and dose levels that the prompt explains.
            fallback: Decides where the model gives no valid answer.
            workers: Stays that the server is asked about at a time.
            seed: Of the draws of :meth:`act`.
        """
        self._rng = np.random.default_rng(seed)
        self._probabilities: NDArray[np.float64] | None = None
        super().__init__(backend, preprocessing, fallback=fallback, simulate=False, workers=workers)

    def session(self) -> Self:
        """The same agent with memory and draws of its own; backend and counts are shared."""
        session = super().session()
        session._rng = copy.deepcopy(self._rng)
        return session

    def act(self, observation: NDArray[np.float32], info: Info) -> int:
        """Draws an action, 0-24, from the probabilities."""
        return int(self._rng.choice(N_ACTIONS, p=self.action_probabilities(observation, info)))

    def action_probabilities(
        self, observation: NDArray[np.float32], info: Info
    ) -> NDArray[np.float64]:
        """Probability of each of the 25 actions, [25]; asks the model once per state."""
        if self._turns_to(info):
            self._probabilities = None
        if self._probabilities is None:
            self._count("decisions")
            told = self._read_levels(info)
            if told is None:
                self._count("fallbacks")
                told = self.fallback.action_probabilities(observation, info)
            self._probabilities = told
        return self._probabilities

    def _read_levels(self, info: Info) -> NDArray[np.float64] | None:
        """[25], None if an answer is no level."""
        earlier, rows = list(self._history), []
        for fluid_level in (None, *range(N_LEVELS)):
            asked = prompt.level_messages(self.preprocessing, info, earlier, fluid_level)
            shares = shares_of(_LEVELS, self.backend.next_token(asked))
            if shares is None:
                return None
            rows.append(shares)
        fluid, vasopressor = rows[0], np.stack(rows[1:])
        return (fluid[:, None] * vasopressor).ravel()
