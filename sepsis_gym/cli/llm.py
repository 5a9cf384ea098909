"""``sepsis-gym llm``: what a language model knows of the patients by itself."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.table import Table
from tyro.conf import OmitArgPrefixes
from tyro.extras import SubcommandApp

from sepsis_gym.cli.evaluate import LLMConfig, open_backend
from sepsis_gym.files import check_target, whole_folder
from sepsis_gym.registration import resolve_model
from sepsis_gym.trajectories import Split, Trajectories

if TYPE_CHECKING:
    from evaluation.knowledge import Knowledge

app = SubcommandApp()


@app.command(name="knowledge")
def knowledge(
    cohort: Path,
    llm: Annotated[LLMConfig, OmitArgPrefixes],
    split: Split = "test",
    world_model: str | None = "default",
    out: Path | None = None,
) -> None:
    """Asks a language model, once a day, who will die in hospital and who will need a vasopressor.

    It sees what the agent sees and simulates nothing. AUROC and AUPRC with 95% intervals over
    stays, beside those of the world model's own word. Its probability is read off the first token;
    where the server gives no token log-probabilities, it is the share of --samples replies.

    Args:
        cohort: Folder written by ``sepsis-gym cohort``.
        llm: The model.
        split: Which stays.
        world_model: Name or folder of the world model beside it; None for none.
        out: Folder for knowledge.json.
    """
    from agents.llm.forecast import ask, questions
    from evaluation.knowledge import asked_rows, labels, score_knowledge, world_model_answers
    from evaluation.results import DISCLAIMER
    from world_models.forecast import in_scales_of

    if out is not None:
        check_target(out)
    whole = Trajectories.load(cohort)
    log, backend = whole.split(split), open_backend(whole.manifest.credentialed, llm)
    expected = {}
    if world_model is not None:
        model = resolve_model(world_model)
        expected = world_model_answers(model, in_scales_of(log, model.preprocessing))
    scores = []
    for question, truth in labels(log).items():
        rows = asked_rows(log, truth)
        asked = questions(log, rows.tolist(), question)
        told = ask(backend, asked, samples=llm.samples, workers=llm.workers)
        answers = {backend.model: (told.probability, told.malformed)}
        if expected:
            answers[f"world model {world_model}"] = (expected[question][rows], 0)
        scores += [
            score_knowledge(
                name, question, answer, truth[rows], log.stay_of_row[rows], malformed=malformed
            )
            for name, (answer, malformed) in answers.items()
        ]
    Console().print(_table(scores))
    print(DISCLAIMER)
    if out is not None:
        with whole_folder(out) as folder:
            about = {"disclaimer": DISCLAIMER, "cohort": whole.manifest.source, "split": split}
            content = {**about, "scores": [score.to_dict() for score in scores]}
            (folder / "knowledge.json").write_text(json.dumps(content, indent=1, allow_nan=False))
        print(f"written to {out}")


def _table(scores: "list[Knowledge]") -> Table:
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
