"""A chat model in this process: any causal language model that transformers loads."""

import json
import re
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any

import numpy as np

from agents.llm.backend import Message, Reply, Sampling, ToolCall, draw_seed
from agents.llm.dialogue import render
from sepsis_gym.errors import BackendError, ConfigError

_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)
_TOP_TOKENS = 20
_CPU_BATCH = 16
"""A larger one leaves the processor's caches, and is answered more slowly."""


@dataclass(frozen=True)
class _Asked:
    """One request: a dialogue's tokens; ``draw`` is None where only the next token is wanted."""

    tokens: Sequence[int]
    text: str
    draw: int | None
    answer: Future[Any] = field(default_factory=Future)


class TransformersBackend:
    """Answers by ``generate``; what several threads ask at the same time is answered in batches.

    Dialogues are rendered by the model's own chat template; tool calls are read in the Hermes
    format, which Qwen models write, as vLLM reads it. A draw depends on the dialogue, the seed and
    its number, not on the batch.

    Attributes:
        model: Name or folder.
        sampling: How replies are drawn.
    """

    def __init__(
        self,
        model: str,
        *,
        sampling: Sampling | None = None,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int = 32,
        loaded: tuple[Any, Any] | None = None,
    ) -> None:
        """Loads the model; weights in safetensors only, and no code of the model's.

        Args:
            model: Folder, or name on the Hugging Face hub.
            sampling: How replies are drawn.
            device: Torch device; None for the GPU if there is one.
            dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto`` for that of the weights.
            batch_size: Most requests answered at a time; on a CPU no more than 16 are.
            loaded: The model and its tokenizer, where they are loaded already.

        Raises:
            ConfigError: There is no such model, or it has no chat template.
        """
        torch = _torch()
        self.model, self.sampling = model, sampling or Sampling()
        self._torch: Any = torch
        network: Any
        if loaded is None:
            network, self.tokenizer = load(model, dtype=dtype)
            network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        else:
            network, self.tokenizer = loaded
        self._device: Any = network.device
        self._on_cpu = network.device.type == "cpu"
        self.batch_size = min(batch_size, _CPU_BATCH) if self._on_cpu else batch_size
        self.network = network.eval()
        ends = network.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends, self.tokenizer.eos_token_id])
        self._waiting: SimpleQueue[_Asked] = SimpleQueue()
        self._generating = Lock()

    def complete(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], *, draw: int = 0
    ) -> Reply:
        """Answers a dialogue; see :meth:`agents.llm.OpenAIBackend.complete`."""
        return self._ask(self._read(render(self.tokenizer, messages, tools), draw))

    def next_token(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), *, prefix: str = ""
    ) -> dict[str, float]:
        """Next tokens' probabilities; see :meth:`agents.llm.OpenAIBackend.next_token`."""
        text = render(self.tokenizer, messages, tools, prefix=prefix)
        return self._ask(self._read(text, None))

    def replies(self, prompts: Sequence[Sequence[int]], draws: Sequence[int]) -> list[Reply]:
        """Answers dialogues given as tokens, each at the draw of its number."""
        asked = [
            _Asked(tokens, str(tokens), draw) for tokens, draw in zip(prompts, draws, strict=True)
        ]
        self._answer(asked)
        return [each.answer.result() for each in asked]

    def _read(self, text: str, draw: int | None) -> _Asked:
        return _Asked(self.tokenizer(text, add_special_tokens=False)["input_ids"], text, draw)

    def _ask(self, asked: _Asked) -> Any:
        self._waiting.put(asked)
        while not asked.answer.done():
            with self._generating:  # whoever holds it answers all who have come meanwhile
                if not asked.answer.done():
                    self._answer_waiting()
        return asked.answer.result()

    def _answer_waiting(self) -> None:
        asked: list[_Asked] = []
        try:
            while True:
                asked.append(self._waiting.get_nowait())
        except Empty:
            self._answer(asked)

    def _answer(self, asked: Sequence[_Asked]) -> None:
        """Answers in batches of one kind and of like length, which pad each other little."""
        in_order = sorted(asked, key=lambda each: len(each.tokens))
        for drawn in (False, True):
            alike = [each for each in in_order if (each.draw is not None) == drawn]
            for at in range(0, len(alike), self.batch_size):
                self._answer_batch(alike[at : at + self.batch_size])

    def _answer_batch(self, batch: Sequence[_Asked]) -> None:
        try:
            told = self._generate(batch)
        except Exception as error:  # each that waits gets it, or would wait for ever
            failed = error
            if isinstance(error, RuntimeError):
                failed = BackendError(f"{self.model} on {self._device} gave no reply: {error}")
            for asked in batch:
                asked.answer.set_exception(failed)
        else:
            for asked, reply in zip(batch, told, strict=True):
                asked.answer.set_result(reply)

    def _generate(self, batch: Sequence[_Asked]) -> list[Any]:
        """Replies, or next tokens' probabilities; the batch wants all the one or the other."""
        replies = batch[0].draw is not None
        tokens = {"input_ids": [list(asked.tokens) for asked in batch]}
        inputs = self.tokenizer.pad(tokens, padding_side="left", return_tensors="pt")
        processors = [self._drawing(batch)] if replies and self.sampling.temperature > 0 else []
        with self._torch.inference_mode():
            out = self.network.generate(
                **inputs.to(self._device),
                max_new_tokens=self.sampling.max_tokens if replies else 1,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self.tokenizer.pad_token_id,
                logits_processor=processors,
                return_dict_in_generate=True,
                output_logits=not replies,
                # one that grows is copied for every token
                cache_implementation="static" if replies and self._on_cpu else None,
            )
        if not replies:
            return self._likeliest(out.logits[0])
        read = inputs["attention_mask"].sum(1).tolist()
        written = out.sequences[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._reply(*each) for each in zip(read, written, strict=True)]

    def _drawing(self, batch: Sequence[_Asked]) -> Any:
        """Leaves one token, drawn at the temperature by each request's own random numbers."""
        seeds = [draw_seed(self.sampling, asked.draw or 0, asked.text) for asked in batch]
        rngs = [np.random.default_rng(seed) for seed in seeds]
        torch, temperature = self._torch, self.sampling.temperature

        def draw(_: Any, scores: Any) -> Any:
            below = torch.softmax(scores.double() / temperature, -1).cumsum(-1)
            at = torch.tensor([[rng.random()] for rng in rngs], device=below.device)
            chosen = (below <= at * below[:, -1:]).sum(-1, keepdim=True)
            return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)

        return draw

    def _likeliest(self, logits: Any) -> list[dict[str, float]]:
        top = self._torch.softmax(logits.float(), -1).topk(min(_TOP_TOKENS, logits.shape[-1]))
        told = []
        for row, ids in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            texts = [self.tokenizer.decode([token]) for token in ids]
            told.append(dict(zip(reversed(texts), reversed(row), strict=True)))  # likeliest wins
        return told

    def _reply(self, prompt_tokens: int, written: list[int]) -> Reply:
        end = next((at for at, token in enumerate(written) if token in self._ends), None)
        text = self.tokenizer.decode(written[:end])
        content, calls = read_tool_calls(text)
        tokens = tuple(written if end is None else written[: end + 1])
        return Reply(content, calls, prompt_tokens, len(tokens), cut=end is None, tokens=tokens)


def load(model: str, *, dtype: str) -> tuple[Any, Any]:
    """A causal language model and its tokenizer; weights in safetensors only, none of its code.

    Args:
        model: Folder, or name on the Hugging Face hub.
        dtype: As for :class:`TransformersBackend`.

    Raises:
        ConfigError: There is no such model, or it has no chat template.
    """
    _torch()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model)
        network: Any = AutoModelForCausalLM.from_pretrained(
            model, dtype=dtype, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"{model}: cannot be loaded: {error}") from error
    if not tokenizer.chat_template:
        raise ConfigError(f"{model}: has no chat template; take a model tuned for chat")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return network, tokenizer


def _torch() -> Any:
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise ImportError('transformers is missing: pip install "sepsis-gym[local]"') from error
    return torch


def read_tool_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """Splits a reply in the Hermes format; one with a call that is no JSON is text throughout."""
    try:
        called = [json.loads(call) for call in _CALL.findall(text)]
        calls = [
            ToolCall(f"call-{at}", call["name"], json.dumps(call["arguments"]))
            for at, call in enumerate(called)
        ]
    except (ValueError, RecursionError, KeyError, TypeError):
        return text.strip(), ()
    return (text.partition("<tool_call>")[0] if calls else text).strip(), tuple(calls)
