"""The language-model agent and the models it talks to."""

from agents.llm.agent import LLMAgent
from agents.llm.backend import ChatBackend, OpenAIBackend, Reply, Sampling, ToolCall
from agents.llm.digits import LLMDigitAgent
from agents.llm.local import TransformersBackend
from agents.llm.teacher import TeacherAgent

__all__ = [
    "ChatBackend",
    "LLMAgent",
    "LLMDigitAgent",
    "OpenAIBackend",
    "Reply",
    "Sampling",
    "TeacherAgent",
    "ToolCall",
    "TransformersBackend",
]
