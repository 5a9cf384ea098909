"""``sepsis-gym evaluate``: score agents on a cohort's held-out stays."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from tyro.conf import OmitArgPrefixes

from evaluation import EvaluationConfig, Results
from evaluation.propensities import Propensities
from sepsis_gym.actions import N_ACTIONS, encode_action
from sepsis_gym.agent import Agent
from sepsis_gym.cli.row_by_row import score_one_by_one
from sepsis_gym.envs import SepsisVectorEnv
from sepsis_gym.envs.support import epistemic_of_log
from sepsis_gym.errors import ConfigError
from sepsis_gym.files import check_target
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.trajectories import Trajectories
from world_models import ClinicalWorldModel, load_world_model

if TYPE_CHECKING:
    from agents.llm import ChatBackend, LLMAgent

TRUTH_PATIENTS = 1024
_ROLLOUT_ENVS = 64
_SUPPORTED_SHARE = 0.99


@dataclass(frozen=True)
class LLMConfig:
    """A language model: where it runs and how it is asked.

    Attributes:
        base_url: OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1.
        llm_model: Name of the served model; without an endpoint, the name or folder of one to run
            in this process by transformers.
        device: Where a model of this process runs, such as cuda:1; None for the GPU if there is
            one.
        dtype: Of its weights: float32, bfloat16, float16, or auto for as they are stored.
        allow_host: Hosts beyond this machine that credentialed rows may be sent to.
        mode: Whether the agent may simulate before it prescribes, prescribes direct, or answers
            with two digits instead of calling tools.
        tokens: Whether its probabilities are read off the tokens of the prescription; digits are
            always read so.
        samples: Replies drawn per question, whose shares are the probabilities; None for the one
            reply of temperature 0.
        temperature: Of the samples.
        max_tokens: Longest reply.
        workers: Requests at a time.
        transcript: File that every dialogue is added to, a JSON line each. It holds patients.
        retry_failed: Whether stays that failed in an earlier run are asked about again.
    """

    base_url: str | None = None
    llm_model: str | None = None
    device: str | None = None
    dtype: str = "auto"
    allow_host: tuple[str, ...] = ()
    mode: Literal["simulate", "direct", "digits"] = "simulate"
    tokens: bool = False
    samples: int | None = None
    temperature: float = 0.7
    max_tokens: int = 1024
    workers: int = 8
    transcript: Path | None = None
    retry_failed: bool = False

    def __post_init__(self) -> None:
        """Refuses two sources of probabilities."""
        if (self.tokens or self.mode == "digits") and self.samples is not None:
            raise ConfigError("--samples draws replies, which --tokens and digits do without")


def evaluate(
    cohort: Path,
    out: Path,
    agents: tuple[str, ...] = (),
    world_model: str | None = "default",
    truth_patients: int = TRUTH_PATIENTS,
    propensities: bool = False,
    llm: Annotated[LLMConfig, OmitArgPrefixes] = LLMConfig(),
    config: Annotated[EvaluationConfig, OmitArgPrefixes] = EvaluationConfig(),  # noqa: B008
) -> None:
    """Scores agents off-policy on the test split, beside clinicians and constant baselines.

    Each row is shown and kept as it comes: run again after an interruption, it goes on.

    Args:
        cohort: Folder written by ``sepsis-gym cohort``.
        out: Folder for results.txt, results.csv, results.json and the rows that are kept.
        agents: Agent folders, names of agents that need no training, or folders of several agent
            folders: the seeds of one agent, which are also summed up.
        world_model: Name or folder of the world model that agents simulate with, and in which
            their return is measured if it was trained on this cohort; None for none.
        truth_patients: New patients that measure true values if the cohort is synthetic; 0 for
            none.
        propensities: Whether to use the clinicians' true action probabilities, which a synthetic
            cohort with one decision per step holds, in place of a fitted behavior policy.
        llm: With --llm-model the language-model agent is scored as well.
        config: Settings of the evaluation.
    """
    trajectories = Trajectories.load(cohort)
    model = None if world_model is None else load_world_model(world_model)
    results = score(
        trajectories,
        open_agents(agents),
        out,
        model=model,
        truth_patients=truth_patients,
        llm=llm,
        config=config,
        known=Propensities.read(cohort) if propensities else None,
    )
    results.save(out)
    print(results.to_text())
    print(f"written to {out}; as a page: sepsis-gym report {out}")


def open_agents(given: tuple[str, ...]) -> dict[str, Agent]:
    """Agents by name from folders, names, and folders of several agent folders."""
    from agents import load_agent, make_agent
    from agents.registry import DESCRIPTION_FILE

    chosen: dict[str, Agent] = {}
    for each in given:
        folder = Path(each).resolve()
        found: dict[str, Path | None] = {each: None}
        if folder.is_dir():
            seeds = sorted(file.parent for file in folder.glob(f"*/{DESCRIPTION_FILE}"))
            whole = (folder / DESCRIPTION_FILE).exists() or not seeds
            found = {folder.name: folder}
            if not whole:
                found = {f"{folder.name}/{seed.name}": seed for seed in seeds}
        for name, path in found.items():
            if name in chosen:
                raise ConfigError(f"two agents are called {name!r}: rename a folder")
            chosen[name] = load_agent(path) if path else make_agent(name)
    return chosen


def score(
    trajectories: Trajectories,
    agents: dict[str, Agent],
    out: Path,
    *,
    model: ClinicalWorldModel | None,
    truth_patients: int,
    config: EvaluationConfig,
    known: Propensities | None = None,
    llm: LLMConfig | None = None,
    company: bool = True,
) -> Results:
    """Scores the agents and the rows every table needs.

    Args:
        trajectories: The cohort.
        agents: By name.
        out: Folder whose ``rows`` keeps what is scored.
        model: World model to simulate with.
        truth_patients: See :func:`evaluate`.
        config: Settings.
        known: See :class:`evaluation.evaluate.Evaluation`.
        llm: Where a language model is served, if one is to be scored.
        company: Whether to add the rows every table needs.
    """
    from agents import train_agent
    from agents.llm import LLMAgent
    from agents.policy import check_preprocessing

    llm = llm or LLMConfig()
    asked = llm != LLMConfig(retry_failed=llm.retry_failed)
    backend = open_backend(trajectories.manifest.credentialed, llm) if asked else None
    check_target(out)
    imitations = [a for name, a in agents.items() if name.partition("/")[0] == "clinician"]
    if company and not imitations:
        imitations = [train_agent("clinician", trajectories)]
        agents = {"clinician": imitations[0], **agents}
    agents = {**agents, **(_baselines(agents) if company else {})}
    if backend is not None:
        agents["llm"] = llm_agent(backend, trajectories.preprocessing, imitations[0], llm)
    for agent in agents.values():
        check_preprocessing(agent, trajectories.preprocessing)
    env = None
    if model is not None and model.preprocessing == trajectories.preprocessing:
        env = SepsisVectorEnv(_ROLLOUT_ENVS, model)
    if model is not None:
        simulating = [agent for agent in agents.values() if isinstance(agent, LLMAgent)]
        limit = support_limit(model, trajectories) if simulating else None
        for agent in simulating:
            agent.support_limit = limit
    return score_one_by_one(
        agents,
        trajectories,
        out,
        config,
        model=model,
        env=env,
        truth_patients=truth_patients,
        retry_failed=llm.retry_failed,
        known=known,
    )


def _baselines(taken: dict[str, Agent]) -> dict[str, Agent]:
    """Rows without which no other row can be read: doing nothing, little, much, or anything."""
    from agents import make_agent

    always = {
        "no_treatment": make_agent("no_treatment"),
        "low_fluid": make_agent("fixed_dose", action=int(encode_action(1, 0))),
        "maximum_dose": make_agent("fixed_dose", action=N_ACTIONS - 1),
        "random": make_agent("random"),
    }
    return {name: agent for name, agent in always.items() if name not in taken}


def support_limit(model: ClinicalWorldModel, trajectories: Trajectories) -> float:
    """What the model doubts more than nearly all that clinicians did lies outside the data."""
    from world_models.forecast import in_scales_of

    train = in_scales_of(trajectories.split("train"), model.preprocessing)
    return float(np.quantile(epistemic_of_log(model, train), _SUPPORTED_SHARE))


def llm_agent(
    backend: "ChatBackend", preprocessing: Preprocessing, fallback: Agent, llm: LLMConfig
) -> "LLMAgent":
    """The language-model agent, as it is to be asked.

    Args:
        backend: The model.
        preprocessing: Of the stays.
        fallback: Decides where the model gives no valid reply.
        llm: How it is asked.
    """
    from agents.llm import LLMAgent, LLMDigitAgent

    settings: dict[str, Any] = {"workers": llm.workers, "transcript_file": llm.transcript}
    if llm.tokens or llm.mode == "digits":
        return LLMDigitAgent(backend, preprocessing, fallback=fallback, mode=llm.mode, **settings)
    settings |= {"simulate": llm.mode == "simulate", "samples": llm.samples}
    return LLMAgent(backend, preprocessing, fallback=fallback, **settings)


def open_backend(credentialed: bool, llm: LLMConfig) -> "ChatBackend":
    """The language model to ask about stays.

    Args:
        credentialed: Whether a data use agreement binds the stays.
        llm: Where it runs.

    Raises:
        ConfigError: The name is missing, there is no such model, or the stays may not be sent
            there.
    """
    from agents.llm import OpenAIBackend, Sampling, TransformersBackend

    if llm.llm_model is None:
        raise ConfigError("a language model needs --llm-model, and --base-url if it is served")
    temperature = 0.0 if llm.samples is None else llm.temperature
    sampling = Sampling(temperature=temperature, max_tokens=llm.max_tokens)
    if llm.base_url is None:
        return TransformersBackend(
            llm.llm_model, sampling=sampling, device=llm.device, dtype=llm.dtype
        )
    return OpenAIBackend(
        llm.base_url,
        llm.llm_model,
        credentialed=credentialed,
        sampling=sampling,
        allowed_hosts=llm.allow_host,
    )
