"""The language-model agent: propose, simulate, prescribe."""

import copy
import json
import threading
from collections import Counter, deque
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agents.llm import prompt
from agents.llm.backend import ChatBackend, Message, Reply, ToolCall
from sepsis_gym.actions import N_ACTIONS, N_LEVELS, encode_action
from sepsis_gym.agent import Agent, Info
from sepsis_gym.dynamics import Simulator
from sepsis_gym.errors import AgentReplyError, ConfigError
from sepsis_gym.preprocessing import Preprocessing

_COUNTED = ("decisions", "simulations", "repairs", "fallbacks", "tokens")


class LLMAgent:
    """Asks a chat model for every decision; it may ask the world model "what if" first.

    Each decision is a dialogue of its own: the task, a short history and the present state, then
    tool calls until it prescribes. A reply that is no valid call is answered with what is wrong,
    a bounded number of times; then the fallback agent decides. Both are counted. A server that
    cannot be reached is an error, never a decision.

    Attributes:
        counts: Decisions, simulations, repairs, decisions left to the fallback, tokens; since
            construction, those of all sessions together.
        transcript: Dialogues of the present stay, one per decision or sampled decision.
    """

    def __init__(
        self,
        backend: ChatBackend,
        preprocessing: Preprocessing,
        *,
        fallback: Agent,
        simulate: bool = True,
        max_simulations: int = 3,
        max_repairs: int = 2,
        samples: int | None = None,
        workers: int = 1,
    ) -> None:
        """Sets the agent up.

        Args:
            backend: The chat model.
            preprocessing: Clock and dose levels that the prompt explains.
            fallback: Decides where the model gives no valid reply.
            simulate: Whether the model may use the simulator.
            max_simulations: Simulations per decision; further calls are refused and count as
                repairs.
            max_repairs: Invalid replies per decision that are answered with what is wrong.
            samples: Decisions drawn per state for its action probabilities, from a backend that
                samples (temperature above 0); None for the one decision of temperature 0.
            workers: Stays that the server is asked about at a time, see :meth:`session`.

        Raises:
            ConfigError: ``samples`` or ``workers`` is below 1.
        """
        if (samples is not None and samples < 1) or workers < 1:
            raise ConfigError(f"samples and workers must be 1 or more, got {samples} and {workers}")
        self.backend = backend
        self.preprocessing = preprocessing
        self.fallback = fallback
        self.simulate = simulate
        self.max_simulations = max_simulations
        self.max_repairs = max_repairs
        self.probability_samples = samples
        self.workers = workers
        self.counts: dict[str, int] = dict.fromkeys(_COUNTED, 0)
        self._counting = threading.Lock()
        self._simulator: Simulator | None = None
        self.reset()

    def reset(self) -> None:
        """Forgets the last stay."""
        self.transcript: list[list[Message]] = []
        self._history: deque[str] = deque(maxlen=prompt.HISTORY_STEPS)
        self._present: Info | None = None  # where the decisions below were made
        self._decisions: list[int] = []
        self.fallback.reset()

    def session(self) -> Self:
        """The same agent with a memory of its own; backend and counts are shared.

        The fallback starts each session as it is now, so that its draws are those of the stay.
        """
        session = copy.copy(self)
        session.fallback = copy.deepcopy(self.fallback)
        session.reset()
        return session

    def bind(self, simulator: Simulator) -> None:
        """Keeps the environment to simulate in."""
        self._simulator = simulator

    def act(self, observation: NDArray[np.float32], info: Info) -> int:
        """Decides; asked again in the same step, it repeats its decision without asking the model.

        Raises:
            ConfigError: The simulator may be used but none was bound.
        """
        return self._decide_times(1, observation, info)[0]

    def action_probabilities(
        self, observation: NDArray[np.float32], info: Info
    ) -> NDArray[np.float64]:
        """Shares of the sampled decisions, [25]; of one decision at temperature 0."""
        decisions = self._decide_times(self.probability_samples or 1, observation, info)
        return np.bincount(decisions, minlength=N_ACTIONS) / len(decisions)

    def _decide_times(self, n: int, observation: NDArray[np.float32], info: Info) -> list[int]:
        if self._turns_to(info):
            self._decisions = []
        while len(self._decisions) < n:
            self._decisions.append(self._decide(observation, info, len(self._decisions)))
        return self._decisions[:n]

    def _turns_to(self, info: Info) -> bool:
        """Whether this is another state than the last one asked about, which then is history."""
        if self._present is not None and self._present["step"] == info["step"]:
            return False
        if self._present is not None:
            self._history.append(prompt.history_line(self._present))
        self._present = info
        return True

    def _decide(self, observation: NDArray[np.float32], info: Info, draw: int) -> int:
        if self.simulate and self._simulator is None:
            raise ConfigError("the agent may simulate but has no environment: call prepare() first")
        self._count("decisions")
        messages: list[Message] = [
            {
                "role": "system",
                "content": prompt.system_prompt(self.preprocessing, simulate=self.simulate),
            },
            {"role": "user", "content": prompt.patient_message(info, list(self._history))},
        ]
        self.transcript.append(messages)
        spent: Counter[str] = Counter()
        while spent["repairs"] <= self.max_repairs:
            tools = prompt.tools(simulate=self.simulate)
            reply = self.backend.complete(messages, tools, draw=draw)
            self._count("tokens", reply.tokens)
            messages.append(reply.to_message())
            try:
                action = self._follow(reply, messages, spent)
            except AgentReplyError as error:
                spent["repairs"] += 1
                self._count("repairs", spent["repairs"] <= self.max_repairs)
                messages += _correction(reply, str(error))
                continue
            if action is not None:
                return action
        self._count("fallbacks")
        return self.fallback.act(observation, info)

    def _count(self, name: str, n: int = 1) -> None:
        with self._counting:
            self.counts[name] += n

    def _follow(self, reply: Reply, messages: list[Message], spent: Counter[str]) -> int | None:
        """Does what a valid reply asks for; the action if it prescribes."""
        if len(reply.tool_calls) != 1:
            raise AgentReplyError(
                f"call exactly one tool at a time, you called {len(reply.tool_calls)}"
            )
        call = reply.tool_calls[0]
        if call.name == "prescription":
            return _action(_arguments(call))
        if call.name != "simulation" or not self.simulate:
            raise AgentReplyError(f"there is no tool {call.name!r}")
        if spent["simulations"] >= self.max_simulations:
            raise AgentReplyError("no simulation is left for this decision: prescribe")
        actions = _candidates(_arguments(call))
        spent["simulations"] += 1
        self._count("simulations")
        if self._simulator is None:
            raise ConfigError("no environment to simulate in: call prepare() first")
        simulation = self._simulator.simulate(np.array(actions))
        messages.append(_answer(call, prompt.simulation_message(actions, simulation)))
        return None


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError) as error:
        raise AgentReplyError(f"the arguments of {call.name} are no JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise AgentReplyError(f"the arguments of {call.name} must be a JSON object")
    return arguments


def _action(doses: object) -> int:
    if not isinstance(doses, dict) or set(doses) != {"iv_fluid", "vasopressor"}:
        raise AgentReplyError("give iv_fluid and vasopressor, and nothing else")
    for name, level in doses.items():
        if not isinstance(level, int) or isinstance(level, bool) or not 0 <= level < N_LEVELS:
            raise AgentReplyError(f"{name} must be a whole number from 0 to 4, got {level!r}")
    return int(encode_action(doses["iv_fluid"], doses["vasopressor"]))


def _candidates(arguments: dict[str, Any]) -> list[int]:
    candidates = arguments.get("actions")
    if not isinstance(candidates, list) or not 1 <= len(candidates) <= prompt.MAX_CANDIDATES:
        raise AgentReplyError(f"actions must list 1 to {prompt.MAX_CANDIDATES} candidates")
    return [_action(candidate) for candidate in candidates]


def _answer(call: ToolCall, content: str) -> Message:
    return {"role": "tool", "tool_call_id": call.call_id, "content": content}


def _correction(reply: Reply, error: str) -> list[Message]:
    """Tells the model what was wrong: every tool call needs an answer, prose gets a user turn."""
    if reply.tool_calls:
        return [_answer(call, json.dumps({"error": error})) for call in reply.tool_calls]
    return [{"role": "user", "content": f"That was no valid reply: {error}."}]
