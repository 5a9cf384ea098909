"""The language-model agent and the servers it talks to."""

from agents.llm.agent import LLMAgent
from agents.llm.backend import ChatBackend, OpenAIBackend, Reply, Sampling, ToolCall

__all__ = ["ChatBackend", "LLMAgent", "OpenAIBackend", "Reply", "Sampling", "ToolCall"]
