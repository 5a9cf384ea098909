"""The language model as a policy: its action probabilities read off its tokens."""

import copy
from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from agents.llm import prompt
from agents.llm.agent import LLMAgent
from agents.llm.backend import ChatBackend, shares_of
from sepsis_gym.actions import N_ACTIONS, N_LEVELS
from sepsis_gym.agent import Agent, Info
from sepsis_gym.preprocessing import Preprocessing

_LEVELS = tuple(map(str, range(N_LEVELS)))
Asking = Literal["digits", "direct", "simulate"]


class LLMDigitAgent(LLMAgent):
    """Reads the fluid level off the next token, and given each fluid level the vasopressor level.

    Six requests of one token give all 25 probabilities, where replies give one action or shares of
    some. In mode ``digits`` two questions are asked about the state, and each answer is one digit.
    In ``direct`` and ``simulate`` the model decides by tool calls as :class:`LLMAgent` lets it, and
    the levels are those of its last call, the prescription, in the Hermes format; the simulations
    before it are those of the dialogue it had. Where the likeliest token is no level, or no
    prescription came, the fallback's probabilities stand, and are counted.
    """

    def __init__(
        self,
        backend: ChatBackend,
        preprocessing: Preprocessing,
        *,
        fallback: Agent,
        mode: Asking = "digits",
        seed: int = 0,
        **settings: Any,
    ) -> None:
        """Sets the agent up.

        Args:
            backend: The chat model; it must give token log-probabilities.
            preprocessing: Clock and dose levels that the prompt explains.
            fallback: Decides where the model gives no valid answer.
            mode: How it is asked.
            seed: Of the draws of :meth:`act`.
            settings: Others of :class:`LLMAgent`.
        """
        self._rng = np.random.default_rng(seed)
        self._probabilities: NDArray[np.float64] | None = None
        self._mode = mode
        super().__init__(
            backend, preprocessing, fallback=fallback, simulate=mode == "simulate", **settings
        )

    @property
    def provenance(self) -> dict[str, Any]:
        """See :attr:`LLMAgent.provenance`."""
        return {**super().provenance, "mode": self._mode}

    def session(self, past: prompt.Past | None = None) -> Self:
        """The same agent with memory, counts and draws of its own; the backend is shared."""
        session = super().session(past)
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
            told = self._asked(info) if self._mode == "digits" else self._called(info)
            if told is None:
                told = self.fallback.action_probabilities(observation, info)
            self._probabilities = told
        return self._probabilities

    def _asked(self, info: Info) -> NDArray[np.float64] | None:
        """[25], None if an answer is no level."""

        def ask(fluid_level: int | None) -> dict[str, float]:
            return self.backend.next_token(
                prompt.level_messages(self.preprocessing, info, self._past, fluid_level)
            )

        self.counts["decisions"] += 1
        told = self._read_levels(ask)
        self.counts["fallbacks"] += told is None
        return told

    def _called(self, info: Info) -> NDArray[np.float64] | None:
        """[25], None if no prescription came or it could have held no level."""
        if self._decide(info, 0) is None:
            return None
        *before, prescription = self.transcript[-1]
        said = prescription["content"]
        head = f"{said}\n{prompt.CALL_HEAD}" if said else prompt.CALL_HEAD

        def ask(fluid_level: int | None) -> dict[str, float]:
            written = "" if fluid_level is None else f"{fluid_level}{prompt.CALL_MIDDLE}"
            return self.backend.next_token(before, self.tools(), prefix=head + written)

        told = self._read_levels(ask)
        self.counts["fallbacks"] += told is None
        return told

    def _read_levels(
        self, ask: Callable[[int | None], dict[str, float]]
    ) -> NDArray[np.float64] | None:
        rows = []
        for fluid_level in (None, *range(N_LEVELS)):
            self.counts["requests"] += 1
            shares = shares_of(_LEVELS, ask(fluid_level))
            if shares is None:
                return None
            rows.append(shares)
        fluid, vasopressor = rows[0], np.stack(rows[1:])
        return (fluid[:, None] * vasopressor).ravel()
