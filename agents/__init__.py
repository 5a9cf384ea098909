"""Treatment policies: baselines, behaviour cloning, offline and online reinforcement learning.

``make_agent``, ``train_agent`` and ``load_agent`` open them by name or folder;
:class:`sepsis_gym.agent.Agent` is what to implement for an agent of one's own.
"""

from agents.policy import AgentRecord, BatchPolicy, check_preprocessing
from agents.registry import (
    agent_digest,
    available_agents,
    config_type,
    load_agent,
    make_agent,
    save_agent,
    train_agent,
)

__all__ = [
    "AgentRecord",
    "BatchPolicy",
    "agent_digest",
    "available_agents",
    "check_preprocessing",
    "config_type",
    "load_agent",
    "make_agent",
    "save_agent",
    "train_agent",
]
