"""The three-stage curriculum that makes a language model a sepsis agent."""

from agents.curriculum.config import STAGES, TINY, CurriculumConfig, Stage

__all__ = ["STAGES", "TINY", "CurriculumConfig", "Stage"]
