"""How a chat model is reached: any OpenAI-compatible server."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from sepsis_gym.errors import AgentReplyError, ConfigError

Message = dict[str, Any]


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
        tokens: Prompt and completion tokens used.
    """

    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tokens: int = 0

    def to_message(self) -> Message:
        """The answer as the next turn of the dialogue."""
        message: Message = {"role": "assistant", "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        return message


class ChatBackend(Protocol):
    """A chat model that can call tools."""

    def complete(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> Reply:
        """Answers a dialogue."""
        ...


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn.

    Attributes:
        temperature: 0 for the most likely reply.
        max_tokens: Longest reply.
        seed: Passed to the server.
        timeout_s: Longest wait for one reply.
        retries: Attempts after a failed request, with growing pauses.
    """

    temperature: float = 0.0
    max_tokens: int = 1024
    seed: int = 0
    timeout_s: float = 120.0
    retries: int = 4


class OpenAIBackend:
    """A model behind an OpenAI-compatible endpoint, such as a vLLM server."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str = "none",
        sampling: Sampling | None = None,
        credentialed: bool = False,
        allowed_hosts: Sequence[str] = (),
        http_client: Any = None,
    ) -> None:
        """Opens a client; nothing is sent yet.

        Args:
            base_url: Endpoint, such as ``http://127.0.0.1:8000/v1``.
            model: Name of the served model.
            api_key: Key, if the server wants one.
            sampling: How replies are drawn.
            credentialed: Whether the patients come from data that may not reach third parties.
            allowed_hosts: Hosts other than this machine that such data may be sent to.
            http_client: Client of the kind the installed openai package takes; None for its own.

        Raises:
            ConfigError: Credentialed data would leave for a host that is not allowed.
        """
        try:
            from openai import OpenAI
        except ImportError as error:
            raise ImportError('openai is missing: pip install "sepsis-gym[llm]"') from error
        host = urlsplit(base_url).hostname
        if host is None:
            raise ConfigError(f"base_url {base_url!r} is no URL; write http://HOST:PORT/v1")
        if credentialed and host not in allowed_hosts and not _is_loopback(host):
            raise ConfigError(
                f"this cohort's data use agreement forbids sending it to {host}; serve the model "
                "on this machine or name the host in the allow-list"
            )
        self.model = model
        self.sampling = sampling or Sampling()
        self._client = OpenAI(
            base_url=base_url,
            api_key=api_key,
            timeout=self.sampling.timeout_s,
            max_retries=self.sampling.retries,
            http_client=http_client,
        )

    def complete(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> Reply:
        """Answers a dialogue.

        Raises:
            openai.OpenAIError: The server cannot be reached or refuses, after all retries.
            AgentReplyError: The server's answer holds no choice.
        """
        request: Any = {"messages": list(messages), "tools": list(tools)}
        answer = self._client.chat.completions.create(
            model=self.model,
            temperature=self.sampling.temperature,
            max_tokens=self.sampling.max_tokens,
            seed=self.sampling.seed,
            tool_choice="auto",
            **request,
        )
        if not answer.choices:
            raise AgentReplyError(f"{self.model} answered without a choice")
        message = answer.choices[0].message
        calls = tuple(
            ToolCall(call.id, call.function.name, call.function.arguments)
            for call in message.tool_calls or ()
            if call.type == "function"
        )
        tokens = answer.usage.total_tokens if answer.usage else 0
        return Reply(message.content or "", calls, tokens)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
