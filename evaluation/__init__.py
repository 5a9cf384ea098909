"""Off-policy evaluation and safety measures of treatment policies, with honest uncertainty."""

from evaluation.evaluate import Evaluation, EvaluationConfig, evaluate_agents
from evaluation.results import Results
from evaluation.selection import validation_value

__all__ = ["Evaluation", "EvaluationConfig", "Results", "evaluate_agents", "validation_value"]
