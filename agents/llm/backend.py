"""How a chat model is reached: any OpenAI-compatible server."""

import ipaddress
import json
import math
import string
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.errors import BackendError, ConfigError

Message = dict[str, Any]
_AROUND = string.whitespace + string.punctuation
_TOP_TOKENS = 20  # the most that OpenAI and an unconfigured vLLM give


@dataclass(frozen=True)
class ToolCall:
    """A tool call as the model wrote it.

    Attributes:
        call_id: Which call a tool's answer belongs to.
        name: Tool.
        arguments: JSON text, not yet checked.
    """

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Reply:
    """One answer of the model.

    Attributes:
        content: Its text.
        tool_calls: Its tool calls, in order.
        prompt_tokens: Tokens read for it.
        completion_tokens: Tokens written.
        cut: Whether it was longer than it may be, and was cut off.
        tokens: What was written, end mark included, where the model runs in this process.
    """

    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut: bool = False
    tokens: tuple[int, ...] = ()

    def to_message(self) -> Message:
        """The answer as the next turn; servers refuse to read arguments that are no JSON."""
        message: Message = {"role": "assistant", "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": _object_text(call.arguments)},
                }
                for call in self.tool_calls
            ]
        return message


def _text(arguments: Any) -> str:
    """Some servers give an object in place of its JSON."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def _object_text(arguments: str) -> str:
    try:
        sound = isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        sound = False
    return arguments if sound else json.dumps({"unreadable": arguments[:200]})


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn.

    Attributes:
        temperature: 0 for the most likely reply.
        max_tokens: Longest reply.
        seed: Of the draws; the number of the draw is added.
    """

    temperature: float = 0.0
    max_tokens: int = 1024
    seed: int = 0


def draw_seed(sampling: Sampling, draw: int, text: str) -> int:
    """Seed of one draw: other dialogues, such as those of other stays, have other luck."""
    return zlib.crc32(f"{sampling.seed} {draw} {text}".encode()) >> 1  # some servers want 31 bits


class ChatBackend(Protocol):
    """A chat model that can call tools; may be asked from several threads.

    Attributes:
        model: Its name.
        sampling: How replies are drawn.
    """

    model: str
    sampling: Sampling

    def complete(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], *, draw: int = 0
    ) -> Reply:
        """Answers a dialogue; ``draw`` tells independent answers to the same dialogue apart."""
        ...

    def next_token(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), *, prefix: str = ""
    ) -> dict[str, float]:
        """Probabilities, at temperature 1, of the most likely next tokens of an answer, by text.

        ``prefix`` is how the answer has begun.
        """
        ...


class OpenAIBackend:
    """A model behind an OpenAI-compatible endpoint, such as a vLLM server."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        credentialed: bool,
        api_key: str = "none",
        sampling: Sampling | None = None,
        timeout_s: float = 120.0,
        retries: int = 12,
        allowed_hosts: Sequence[str] = (),
        transport: Any = None,
    ) -> None:
        """Opens a client; nothing is sent yet.

        Args:
            base_url: Endpoint, such as ``http://127.0.0.1:8000/v1``.
            model: Name of the served model.
            credentialed: Whether the patients come from data that may not reach third parties
                (a cohort's ``manifest.credentialed``).
            api_key: Key, if the server wants one.
            sampling: How replies are drawn.
            timeout_s: Longest wait for one reply.
            retries: Attempts after a failed request, with pauses that grow to 8 s: by default a
                server may be away for a minute.
            allowed_hosts: Hosts other than this machine that such data may be sent to.
            transport: Transport of the kind the installed openai package takes; None for the
                network.

        Raises:
            ConfigError: Credentialed data would leave for a host that is not allowed.
        """
        try:
            from openai import DefaultHttpxClient, OpenAI
        except ImportError as error:
            raise ImportError('openai is missing: pip install "sepsis-gym[llm]"') from error
        if not base_url.startswith(("http://", "https://")):
            raise ConfigError(f"base_url {base_url!r} is no URL; write http://HOST:PORT/v1")
        self.model = model
        self.sampling = sampling or Sampling()
        # A redirect, or a proxy named in the environment, would carry rows past the check below.
        self._client = OpenAI(
            base_url=base_url,
            api_key=api_key,
            timeout=timeout_s,
            max_retries=retries,
            http_client=DefaultHttpxClient(
                transport=transport, follow_redirects=False, trust_env=not credentialed
            ),
        )
        # The host as the client reads it: two URL parsers may disagree on a crafted address.
        host = self._client.base_url.host
        if credentialed and host not in allowed_hosts and not _is_loopback(host):
            raise ConfigError(
                f"this cohort's data use agreement forbids sending it to {host}; serve the model "
                "on this machine or allow the host (--allow-host)"
            )

    def complete(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], *, draw: int = 0
    ) -> Reply:
        """Answers a dialogue.

        Args:
            messages: The dialogue.
            tools: What the model may call; none for plain text.
            draw: Which of several independent answers.

        Raises:
            BackendError: The server cannot be reached or refuses, after all retries, or answers
                without a choice.
        """
        answer = self._ask(
            messages,
            temperature=self.sampling.temperature,
            max_tokens=self.sampling.max_tokens,
            seed=draw_seed(self.sampling, draw, json.dumps(list(messages))),
            tools=tools,
        )
        choice = answer["choices"][0]
        try:
            message, usage = choice["message"], answer.get("usage") or {}
            counts = (usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens"))
            read, written = map(int, counts)
            calls = tuple(
                ToolCall(call["id"], call["function"]["name"], _text(call["function"]["arguments"]))
                for call in message.get("tool_calls") or ()
                if call.get("type", "function") == "function"
            )
            content = (message.get("content") or message.get("refusal") or "").strip()
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BackendError(f"{self.model} answered with what is no chat completion") from error
        return Reply(content, calls, read, written, cut=choice.get("finish_reason") == "length")

    def next_token(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), *, prefix: str = ""
    ) -> dict[str, float]:
        """Probabilities of the most likely next tokens of an answer.

        Args:
            messages: The dialogue.
            tools: What the model may call.
            prefix: How the answer has begun; only some servers, vLLM among them, go on from it.

        Raises:
            BackendError: As :meth:`complete`, or the server gives no token log-probabilities.
        """
        further: dict[str, Any] = {}
        if prefix:
            messages = [*messages, {"role": "assistant", "content": prefix}]
            further = {"continue_final_message": True, "add_generation_prompt": False}
        one = {"temperature": 0.0, "max_tokens": 1, "logprobs": True, "top_logprobs": _TOP_TOKENS}
        answer = self._ask(messages, tools=tools, further=further, **one)
        try:
            given = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            found = {token["token"]: math.exp(token["logprob"]) for token in given}
        except (KeyError, IndexError, TypeError):
            found = {}
        if not found:
            raise BackendError(f"{self.model} gave no token log-probabilities: draw samples")
        return found

    def _ask(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]],
        further: Mapping[str, Any] | None = None,
        **request: Any,
    ) -> dict[str, Any]:
        from openai import APIError

        body = {"model": self.model, "messages": list(messages), **request, **(further or {})}
        if tools:
            body |= {"tools": list(tools), "tool_choice": "auto"}
        try:
            # not by the client's typed method: its walk through messages, schemas and answer
            # takes more processor time than all the rest of a request
            answer = json.loads(self._client.post("/chat/completions", cast_to=str, body=body))
        except (APIError, ValueError) as error:
            where = self._client.base_url
            raise BackendError(f"{self.model} at {where} gave no reply: {error}") from error
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise BackendError(f"{self.model} answered without a choice")
        return cast(dict[str, Any], answer)


def shares_of(answers: Sequence[str], tokens: Mapping[str, float]) -> NDArray[np.float64] | None:
    """Probability of each answer among them, from those of the first token of a reply.

    A token stands for an answer if it is the same word or digit, whatever the case and the
    punctuation around it.

    Args:
        answers: The k answers allowed, lower case.
        tokens: Made by :meth:`ChatBackend.next_token`.

    Returns:
        [k] summing to 1; None if the likeliest token is none of the answers.
    """
    mass = np.zeros(len(answers))
    for token, probability in tokens.items():
        if (word := _word(token)) in answers:
            mass[answers.index(word)] += probability
    likeliest = max(tokens, key=tokens.__getitem__)
    return mass / mass.sum() if _word(likeliest) in answers else None


def _word(token: str) -> str:
    return token.strip(_AROUND).lower()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
