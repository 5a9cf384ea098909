"""``sepsis-gym demo``: the whole path on made-up patients."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import OmitArgPrefixes

from evaluation import EvaluationConfig, validation_value
from sepsis_gym.agent import Agent
from sepsis_gym.cli.cohort import build_synthetic, print_cohort
from sepsis_gym.cli.evaluate import TRUTH_PATIENTS, LLMConfig, score
from sepsis_gym.cohort.assemble import AssemblyConfig
from sepsis_gym.trajectories import Trajectories
from world_models import TrainConfig
from world_models.physiology import ClinicianConfig


def demo(
    out: Path = Path("runs/demo"),
    patients: int = 1000,
    seed: int = 0,
    epochs: int | None = None,
    gradient_steps: int | None = None,
    truth_patients: int = TRUTH_PATIENTS,
    llm: Annotated[LLMConfig, OmitArgPrefixes] = LLMConfig(),  # noqa: B008
) -> None:
    """Makes a small synthetic cohort, trains a world model, BCQ and CQL, scores and reports.

    Research software, never for patient care.

    Args:
        out: Folder for everything that is made.
        patients: Size of the cohort.
        seed: Of the cohort, the trainings and the bootstrap.
        epochs: Of the world model; its default if not given.
        gradient_steps: Of BCQ and CQL; their default if not given.
        truth_patients: New patients that measure true values; 0 for none.
        llm: With --base-url and --llm-model the language-model agent is scored as well.
    """
    from agents import train_agent
    from agents.offline import BcqConfig, CqlConfig
    from evaluation.report import write_report
    from world_models.training import train_world_model

    console = Console()
    console.rule("1  synthetic cohort")
    trajectories = _cohort(out / "cohort", patients, seed)
    console.rule("2  world model")
    training = TrainConfig(seed=seed, hidden=64, effects="truth")  # small, as the cohort is
    if epochs is not None:
        training = replace(training, epochs=epochs)
    model = train_world_model(trajectories, out / "world-model", training)
    console.rule("3  agents")
    bcq, cql = BcqConfig(), CqlConfig()
    if gradient_steps is not None:
        bcq, cql = (replace(bcq, n_steps=gradient_steps), replace(cql, n_steps=gradient_steps))
    configs = {"clinician": None, "bcq": bcq, "cql": cql}
    judge = validation_value(trajectories, gamma=EvaluationConfig().gamma)
    agents: dict[str, Agent] = {}
    for name, config in configs.items():
        folder = out / "agents" / name
        agents[name] = train_agent(
            name, trajectories, folder, config=config, seed=seed, score=judge
        )
    console.rule("4  off-policy evaluation on held-out stays")
    results = score(
        trajectories,
        agents,
        out / "results",
        model=model,
        truth_patients=truth_patients,
        llm=llm,
        config=EvaluationConfig(seed=seed),
    )
    results.save(out / "results")
    print(results.to_text())
    console.rule("5  report")
    page = write_report(results, out / "report")
    if llm.base_url is None:
        print("no language-model agent: serve a model and give --base-url and --llm-model")
    print(f"written to {out}: cohort/, world-model/, agents/, results/; read {page}")


def _cohort(folder: Path, patients: int, seed: int) -> Trajectories:
    trajectories = build_synthetic(folder, patients, seed, AssemblyConfig(), ClinicianConfig())
    print_cohort(trajectories, folder)
    return trajectories
