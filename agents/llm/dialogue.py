"""Dialogues as a model sees them: their text, their tokens, and which of these it wrote itself.

Serving in process and training render here, so that both see the same tokens.
"""

import json
from collections.abc import Sequence
from typing import Any

from agents.llm.backend import Message
from sepsis_gym.errors import ConfigError


def render(
    tokenizer: Any,
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] = (),
    *,
    answering: bool = True,
    prefix: str = "",
) -> str:
    """The text of a dialogue by the model's own chat template.

    Args:
        tokenizer: Of the model.
        messages: The dialogue.
        tools: What the model may call.
        answering: Whether it ends where the model's answer begins.
        prefix: How that answer has begun.
    """
    turns = [_with_parsed_arguments(message) for message in messages]
    if prefix:
        turns.append({"role": "assistant", "content": prefix})
    text: str = tokenizer.apply_chat_template(
        turns,
        tools=list(tools) or None,
        tokenize=False,
        add_generation_prompt=answering and not prefix,
        continue_final_message=bool(prefix),
    )
    return text


def encode(
    tokenizer: Any, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()
) -> tuple[list[int], list[bool]]:
    """Tokens of a whole dialogue, and which of them the model writes: its turns to their end mark.

    Raises:
        ConfigError: The chat template words earlier turns otherwise once the dialogue goes on.
    """
    text = render(tokenizer, messages, tools, answering=False)
    spans = []
    for at, message in enumerate(messages):
        if message["role"] == "assistant":
            before = render(tokenizer, messages[:at], tools)
            after = _closed(tokenizer, messages[: at + 1], tools)[0]
            if not (text.startswith(after) and after.startswith(before)):
                raise ConfigError(
                    "the chat template rewrites earlier turns when a dialogue goes on, so no token "
                    "of it can be trained on; take a model whose template does not, such as "
                    "Qwen3-4B-Instruct-2507"
                )
            spans.append((len(before), len(after)))
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    starts = [start for start, _ in coded["offset_mapping"]]
    written = [any(low <= start < high for low, high in spans) for start in starts]
    return coded["input_ids"], written


def answer_to(
    tokenizer: Any, messages: Sequence[Message], told: int, tools: Sequence[dict[str, Any]] = ()
) -> list[int]:
    """Tokens between the end of the model's turn ``messages[told - 1]`` and its next."""
    before, rest = _closed(tokenizer, messages[:told], tools)
    following = render(tokenizer, messages, tools)[len(before) + len(rest) :]
    ids: list[int] = tokenizer(rest + following, add_special_tokens=False)["input_ids"]
    return ids


def _closed(
    tokenizer: Any, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
) -> tuple[str, str]:
    """A dialogue that ends with the model's turn, up to its end mark, and what follows that."""
    text = render(tokenizer, messages, tools, answering=False)
    end = text.rindex(tokenizer.eos_token) + len(tokenizer.eos_token)
    return text[:end], text[end:]


def _with_parsed_arguments(message: Message) -> Message:
    """Chat templates write out the arguments of earlier calls from objects, not from text."""
    if "tool_calls" not in message:
        return message
    calls = [
        {**call, "function": {**call["function"], "arguments": json.loads(arguments)}}
        for call in message["tool_calls"]
        for arguments in [call["function"]["arguments"]]
    ]
    return {**message, "tool_calls": calls}
