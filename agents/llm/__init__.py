"""The language-model agent and the servers it talks to."""

from agents.llm.agent import LLMAgent
from agents.llm.backend import ChatBackend, OpenAIBackend, Reply, Sampling, ToolCall
from agents.llm.digits import LLMDigitAgent

__all__ = [
    "ChatBackend",
    "LLMAgent",
    "LLMDigitAgent",
    "OpenAIBackend",
    "Reply",
    "Sampling",
    "ToolCall",
]
