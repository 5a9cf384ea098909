"""What ``llm knowledge`` and the table of ``llm train`` ask a language model."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from sepsis_gym.trajectories import Trajectories

if TYPE_CHECKING:
    from agents.llm import ChatBackend
    from evaluation.knowledge import Knowledge, Question


def knowledge_of(
    backend: "ChatBackend", log: Trajectories, *, samples: int | None = None, workers: int
) -> "list[Knowledge]":
    """How well a model answers both questions; arguments as ``agents.llm.forecast.ask``."""
    from agents.llm.forecast import ask, questions
    from evaluation.knowledge import asked_rows, labels, score_answers

    told: dict[Question, NDArray[np.float64]] = {}
    malformed: dict[Question, int] = {}
    for question, truth in labels(log).items():
        rows = asked_rows(log, truth)
        dialogues = questions(log, rows.tolist(), question)
        asked = ask(backend, dialogues, samples=samples, workers=workers)
        told[question], malformed[question] = np.full(len(truth), np.nan), asked.malformed
        told[question][rows] = asked.probability
    return score_answers(backend.model, log, told, malformed)


def knowledge_table(scores: "list[Knowledge]") -> Table:
    """A row per predictor and question."""
    table = Table("Question", "Asked", "True", "Predictor", "AUROC", "AUPRC", "Malformed")
    for score in scores:
        measures = (
            f"{measure.value:.3f}\n[{measure.low:.3f}, {measure.high:.3f}]"
            for measure in (score.auroc, score.auprc)
        )
        counts = (str(score.asked), f"{score.positive / score.asked:.1%}")
        table.add_row(
            score.question.replace("_", " "),
            *counts,
            score.predictor,
            *measures,
            str(score.malformed),
        )
    return table
