"""Off-policy evaluation and safety measures of treatment policies, with honest uncertainty."""

from evaluation.evaluate import EvaluationConfig, evaluate_agents
from evaluation.results import Results

__all__ = ["EvaluationConfig", "Results", "evaluate_agents"]
