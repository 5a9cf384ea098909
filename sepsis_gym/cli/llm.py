"""``sepsis-gym llm``: serve a language model, watch it treat, and ask what it knows by itself."""

import json
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.markup import escape
from tyro.conf import OmitArgPrefixes, Positional
from tyro.extras import SubcommandApp

from sepsis_gym.cli import llm_train
from sepsis_gym.cli.evaluate import LLMConfig, open_backend
from sepsis_gym.cli.llm_knowledge import knowledge_of, knowledge_table
from sepsis_gym.errors import BackendError
from sepsis_gym.files import check_target, whole_folder
from sepsis_gym.registration import resolve_model
from sepsis_gym.trajectories import Split, Trajectories

app = SubcommandApp()
app.command(name="train")(llm_train.train)


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
    from evaluation.knowledge import score_answers, world_model_answers
    from evaluation.results import DISCLAIMER
    from world_models.forecast import in_scales_of

    if out is not None:
        check_target(out)
    whole = Trajectories.load(cohort)
    log, backend = whole.split(split), open_backend(whole.manifest.credentialed, llm)
    scores = knowledge_of(backend, log, samples=llm.samples, workers=llm.workers)
    if world_model is not None:
        model = resolve_model(world_model)
        told = world_model_answers(model, in_scales_of(log, model.preprocessing))
        scores += score_answers(f"world model {world_model}", log, told)
    scores.sort(key=lambda score: score.question)
    Console().print(knowledge_table(scores))
    print(DISCLAIMER)
    if out is not None:
        with whole_folder(out) as folder:
            about = {"disclaimer": DISCLAIMER, "cohort": whole.manifest.source, "split": split}
            content = {**about, "scores": [score.to_dict() for score in scores]}
            (folder / "knowledge.json").write_text(json.dumps(content, indent=1, allow_nan=False))
        print(f"written to {out}")


@app.command(name="serve")
def serve(
    model: Positional[str],
    options: Positional[tuple[str, ...]] = (),
    port: int = 8000,
    vllm: str = "vllm",
    log: Path | None = None,
) -> None:
    """Serves a model by vLLM on this machine, with tool calls and prefix caching, until Ctrl-C.

    Nothing of it is left running, however this command ends.

    Args:
        model: Folder, or name on the Hugging Face hub.
        options: After ``--``, what ``vllm serve`` is given as well, such as
            ``-- --tensor-parallel-size 2 --data-parallel-size 4``.
        port: On the loopback.
        vllm: The vllm command, if it lies in another environment.
        log: File for all it prints.
    """
    from agents.llm.serve import serving

    # a script's background job is born deaf to it, and would never end
    signal.signal(signal.SIGINT, signal.default_int_handler)
    console = Console()
    with ExitStack() as stack:
        status = stack.enter_context(console.status(f"starting vLLM with {model}"))
        told = (lambda line: status.update(escape(line[:150]))) if console.is_terminal else None
        up = serving(model, port=port, options=options, command=vllm, log=log, waiting=told)
        base_url, server = stack.enter_context(up)
        status.stop()
        print(f"{model} is served: --base-url {base_url} --llm-model {model}", flush=True)
        code = server.wait()
    raise BackendError(f"vLLM ended with code {code}" + (f"; see {log}" if log else ""))


@app.command(name="chat")
def chat(
    llm: Annotated[LLMConfig, OmitArgPrefixes] = LLMConfig(),  # noqa: B008
    cohort: Path | None = None,
    stay: int | None = None,
    world_model: str = "default",
    seed: int = 0,
) -> None:
    """Shows one stay in the terminal: patient, proposals, simulated outcomes, decision.

    Enter goes on to the next step. Without --llm-model it is the rule "teacher" that talks.

    Args:
        llm: The model.
        cohort: Folder of logged stays, whose course the decisions do not change; None for a
            patient of the world model, who is treated.
        stay: Which of them; drawn if None.
        world_model: Name or folder of the world model.
        seed: Of the patient.
    """
    from sepsis_gym.cli.llm_chat import show_stay

    show_stay(llm, cohort, stay, world_model, seed)
