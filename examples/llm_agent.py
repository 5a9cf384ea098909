"""Lets a language model treat one simulated patient: propose, simulate, prescribe.

Usage: python examples/llm_agent.py BASE_URL MODEL

Any OpenAI-compatible server will do, for instance ``sepsis-gym llm serve MODEL`` at
http://127.0.0.1:8000/v1.
"""

import sys

import gymnasium as gym

import sepsis_gym  # noqa: F401  registers the environments
from agents import make_agent
from agents.llm import LLMAgent, OpenAIBackend
from sepsis_gym.agent import prepare


def main(base_url: str, model: str, seed: int = 0) -> dict[str, int]:
    """Runs one episode of SepsisWM-v0 and returns what the agent counted."""
    env = gym.make("SepsisWM-v0", render_mode="ansi")
    agent = LLMAgent(
        OpenAIBackend(base_url, model, credentialed=False),  # made-up patients
        env.unwrapped.preprocessing,
        fallback=make_agent("no_treatment"),
    )
    observation, info = env.reset(seed=seed)
    prepare(agent, env)
    total, over = 0.0, False
    while not over:
        action = agent.act(observation, info)
        observation, reward, terminated, truncated, info = env.step(action)
        total += float(reward)
        over = terminated or truncated
        print(f"\naction {action}, reward {reward:+.3f}\n{env.render()}")
    print(f"\nreturn {total:+.2f}; {agent.counts}")
    return agent.counts


if __name__ == "__main__":
    main(*sys.argv[1:3])
