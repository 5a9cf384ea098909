"""The language-model agent: propose, simulate, prescribe."""

import copy
import json
import threading
from collections import Counter
from collections.abc import Generator
from pathlib import Path
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

_COUNTED = ("decisions", "simulations", "repairs", "fallbacks")
_COUNTED_REQUESTS = ("requests", "prompt_tokens", "completion_tokens")


class LLMAgent:
    """Asks a chat model for every decision; it may ask the world model "what if" first.

    Each decision is a dialogue of its own that only grows at its end: the task, what is told of the
    stay so far and the present state, then tool calls until it prescribes. A reply that is no valid
    call is answered with what is wrong, a bounded number of times; then the fallback agent decides.
    Both are counted. A server that cannot be reached is an error, never a decision.

    Attributes:
        counts: Decisions, requests, simulations, repairs, decisions left to the fallback, tokens;
            since construction, those of its sessions as far as they are added up.
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
        support_limit: float | None = None,
        transcript_file: Path | None = None,
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
            support_limit: See :func:`agents.llm.prompt.simulation_message`.
            transcript_file: Where every dialogue is added, one JSON line each. It holds patients.

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
        self.support_limit = support_limit
        self.transcript_file = transcript_file
        self.counts: dict[str, int] = dict.fromkeys(_COUNTED + _COUNTED_REQUESTS, 0)
        self._writing = threading.Lock()
        self._simulator: Simulator | None = None
        self.reset()

    @property
    def provenance(self) -> dict[str, Any]:
        """All that its decisions depend on but the server's weights and the simulator."""
        sampling = self.backend.sampling
        return {
            "agent": type(self).__name__,
            "model": self.backend.model,
            "prompt_sha256": prompt.prompt_sha256(self.preprocessing, simulate=self.simulate),
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed,
            "samples": self.probability_samples,
            "simulations": self.max_simulations if self.simulate else 0,
            "repairs": self.max_repairs,
            "support_limit": self.support_limit,
            "fallback": _told_apart(self.fallback),
        }

    def reset(self) -> None:
        """Forgets the last stay."""
        self.transcript: list[list[Message]] = []
        self._past = prompt.Past()
        self._present: Info | None = None  # where the decisions below were made
        self._decisions: list[int] = []
        self.fallback.reset()

    def session(self, past: prompt.Past | None = None) -> Self:
        """The same agent with memory and counts of its own; the backend is shared.

        The fallback starts each session as it is now, so that its draws are those of the stay.

        Args:
            past: The stay so far, where the session begins in its midst.
        """
        session = copy.copy(self)
        session.fallback = copy.deepcopy(self.fallback)
        session.counts = dict.fromkeys(_COUNTED + _COUNTED_REQUESTS, 0)
        session.reset()
        session._past = past or prompt.Past()
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
            action = self._decide(info, len(self._decisions))
            if action is None:
                action = self.fallback.act(observation, info)
            self._decisions.append(action)
        return self._decisions[:n]

    def _turns_to(self, info: Info) -> bool:
        """Whether this is another state than the last one asked about, which then is history."""
        if self._present is not None and self._present["step"] == info["step"]:
            return False
        if self._present is not None:
            self._past.add(self._present)
        self._present = info
        return True

    def _decide(self, info: Info, draw: int) -> int | None:
        """The prescribed action; None, which is counted, where the fallback must decide."""
        deciding, reply = self.deciding(info, draw), None
        while True:
            try:
                messages = deciding.send(reply)
            except StopIteration as decided:
                return decided.value
            reply = self.backend.complete(messages, self.tools(), draw=draw)

    def deciding(self, info: Info, draw: int = 0) -> Generator[list[Message], Any, int | None]:
        """The dialogue of one decision: yields it whenever the model is to answer it.

        Returns:
            The prescribed action; None, which is counted, where the fallback must decide.

        Raises:
            ConfigError: The simulator may be used but none was bound.
        """
        if self.simulate and self._simulator is None:
            raise ConfigError("the agent may simulate but has no environment: call prepare() first")
        self.counts["decisions"] += 1
        messages = self._opening(info)
        self.transcript.append(messages)
        action, spent = None, Counter[str]()
        while action is None and spent["repairs"] <= self.max_repairs:
            reply: Reply = yield messages
            self.counts["requests"] += 1
            self.counts["prompt_tokens"] += reply.prompt_tokens
            self.counts["completion_tokens"] += reply.completion_tokens
            messages.append(reply.to_message())
            try:
                action = self._follow(reply, messages, spent, info)
            except AgentReplyError as error:
                spent["repairs"] += 1
                self.counts["repairs"] += spent["repairs"] <= self.max_repairs
                messages += _correction(reply, str(error))
        self.counts["fallbacks"] += action is None
        self._write_down(info, draw, action, messages)
        return action

    def _opening(self, info: Info) -> list[Message]:
        """How every dialogue about a state begins: the task, and the patient so far."""
        system = prompt.system_prompt(self.preprocessing, simulate=self.simulate)
        told = prompt.patient_message(info, self._past)
        return [{"role": "system", "content": system}, {"role": "user", "content": told}]

    def tools(self) -> list[dict[str, Any]]:
        """What the model may call."""
        return prompt.tools(simulate=self.simulate)

    def _write_down(
        self, info: Info, draw: int, action: int | None, messages: list[Message]
    ) -> None:
        if self.transcript_file is None:
            return
        entry = {"stay_id": info.get("stay_id"), "step": info["step"], "draw": draw}
        entry |= {"action": action, "model": self.backend.model, "messages": messages}
        with self._writing, self.transcript_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _follow(
        self, reply: Reply, messages: list[Message], spent: Counter[str], info: Info
    ) -> int | None:
        """Does what a valid reply asks for; the action if it prescribes."""
        if len(reply.tool_calls) != 1:
            told = f"call exactly one tool at a time, you called {len(reply.tool_calls)}"
            too_long = "; your reply was too long and was cut off, be brief" if reply.cut else ""
            raise AgentReplyError(told + too_long)
        call = reply.tool_calls[0]
        if call.name == "prescription":
            return _action(_arguments(call))
        if call.name != "simulation" or not self.simulate:
            raise AgentReplyError(f"there is no tool {call.name!r}")
        if spent["simulations"] >= self.max_simulations:
            raise AgentReplyError("no simulation is left for this decision: prescribe")
        actions = _candidates(_arguments(call))
        spent["simulations"] += 1
        self.counts["simulations"] += 1
        if self._simulator is None:
            raise ConfigError("no environment to simulate in: call prepare() first")
        simulation = self._simulator.simulate(np.array(actions))
        told = prompt.simulation_message(actions, simulation, info, self.support_limit)
        messages.append(_answer(call, told))
        return None


def _told_apart(agent: Agent) -> str:
    """Class, and hash of the agent where it can be saved."""
    from agents.registry import agent_digest

    saving: Any = agent
    name = type(agent).__name__
    return f"{name} {agent_digest(saving)[:16]}" if hasattr(agent, "to_record") else name


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
