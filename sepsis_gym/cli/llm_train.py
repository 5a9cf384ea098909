"""``sepsis-gym llm train``: the three-stage curriculum, and the table that shows what each did."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from rich.console import Console
from tyro.conf import arg

from agents.curriculum import STAGES, TINY, CurriculumConfig, Stage
from evaluation import EvaluationConfig
from sepsis_gym.agent import Agent
from sepsis_gym.cli.agent import changed
from sepsis_gym.cli.evaluate import LLMConfig, open_backend, score, support_limit
from sepsis_gym.cli.llm_ablation import Ablation, show, stages_table
from sepsis_gym.cli.llm_knowledge import knowledge_of, knowledge_table
from sepsis_gym.errors import ConfigError
from sepsis_gym.registration import resolve_model
from sepsis_gym.trajectories import Trajectories
from world_models import ClinicalWorldModel

if TYPE_CHECKING:
    from agents.llm import LLMAgent

_SETTINGS, _DIALOGUES = "curriculum.json", "dialogues.jsonl"
_BLANK, _BASE, _TABLE = "blank", "base", "table"
_MODES = {"": True, ", alone": False}
"""What is added to a row's name, and whether the agent may simulate."""


def train(
    cohort: Path,
    out: Path,
    model: str = "tiny",
    stage: Literal["sft", "bc", "rl", "all"] = "all",
    world_model: str = "default",
    teacher: LLMConfig = LLMConfig(),  # noqa: B008
    settings: Annotated[tuple[str, ...], arg(name="set")] = (),
    stays: int = 64,
    truth_patients: int = 64,
) -> None:
    """Trains a language model in three stages: patient dynamics, imitation, reinforcement.

    OUT/sft, OUT/bc and OUT/rl are model folders for ``llm serve``; OUT/tensorboard holds curves.
    Run again after an interruption, it goes on. ``--stage all`` ends with the table of what each
    stage brought, with the simulator and alone. On several GPUs:
    ``accelerate launch --config_file FILE $(which sepsis-gym) llm train ...``.

    Args:
        cohort: Folder written by ``sepsis-gym cohort``, in the scales of the world model
            (``--scales-of``).
        out: Folder for everything. Its dialogues.jsonl holds patients.
        model: Folder or name on the Hugging Face hub of a chat model, or ``tiny`` for one made
            from scratch.
        stage: Which; one begins where the stage before it ended.
        world_model: Name or folder: what the agent simulates with and is rewarded in.
        teacher: A language model to imitate; the rule "teacher" if none is given.
        settings: Settings other than by default, such as ``--set sft.steps=1000 rl.kl=0.02``;
            ``--set help`` lists them.
        stays: Test stays in the table.
        truth_patients: New patients in it, if the cohort is synthetic.
    """
    from agents.curriculum.train import require
    from agents.policy import WORLD_MODEL

    default = TINY if model == "tiny" else CurriculumConfig()
    config = changed(CurriculumConfig, settings, "llm train --set", default)
    require()
    if stays < 2 or truth_patients == 1 or truth_patients < 0:
        raise ConfigError("the table's intervals need --stays 2 or more, --truth-patients 0 or 2")
    log = Trajectories.load(cohort)
    simulator = resolve_model(world_model)
    if (
        not isinstance(simulator, ClinicalWorldModel)
        or simulator.preprocessing != log.preprocessing
    ):
        raise ConfigError(f"{cohort} is not in the scales of {world_model!r}: see --scales-of")
    from accelerate import PartialState

    processes = PartialState()
    run = _Curriculum(log, simulator, config, out, teacher)
    about: dict[str, Any] = {"model": model, "cohort": log.content_hash, "settings": asdict(config)}
    about |= {WORLD_MODEL: simulator.digest, "teacher": teacher.llm_model}
    with processes.main_process_first():  # what it writes, the others find
        out.mkdir(parents=True, exist_ok=True)
        _keep(out, about)
        run.prepare(tiny=model == "tiny", stage=stage)
    start = base = run.base() if model == "tiny" else model
    for each in STAGES if stage == "all" else (stage,):
        before = STAGES.index(each) - 1
        if before >= 0:
            start = str(out / STAGES[before])
            if not Path(start).exists():
                raise ConfigError(f"stage {each} begins where {start} ended, which is not there")
        run.stage(each, start)
    if stage == "all" and processes.is_main_process:
        run.table(Path(base), stays, truth_patients)


def check_cohort(out: Path, log: Trajectories) -> None:
    """Refuses a folder that is of no run, or of a run on another cohort, whose results it keeps."""
    file = out / _SETTINGS
    if not file.is_file():
        raise ConfigError(f"{file} is missing: {out} is no folder of sepsis-gym llm train")
    if json.loads(file.read_text())["cohort"] != log.content_hash:
        raise ConfigError(f"{file} is of another cohort: give the one that the run was trained on")


def _keep(out: Path, about: dict[str, Any]) -> None:
    """Refuses to go on with other settings than those that the folder was begun with."""
    file = out / _SETTINGS
    if file.exists():
        if json.loads(file.read_text()) != json.loads(json.dumps(about)):
            raise ConfigError(
                f"{file} is of another model, cohort, teacher or settings: choose another --out"
            )
        return
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(about, indent=1))
    fresh.replace(file)


class _Curriculum:
    """One run of it."""

    def __init__(
        self,
        log: Trajectories,
        simulator: ClinicalWorldModel,
        config: CurriculumConfig,
        out: Path,
        teacher: LLMConfig,
    ) -> None:
        self.log, self.simulator, self.config, self.out = log, simulator, config, out
        self.train_log = log.split("train")
        if config.stays is not None:
            self.train_log = self.train_log.select(
                np.arange(min(config.stays, len(self.train_log)))
            )
        self._limit = support_limit(simulator, log)
        self._teacher = teacher
        self._present: list[Any] | None = None
        self._dynamics: list[Any] | None = None
        self._imitated: list[Any] | None = None

    def prepare(self, *, tiny: bool, stage: str) -> None:
        """Makes what the training only reads."""
        from agents.curriculum.tiny import plain_tokenizer, write_tiny
        from agents.llm.dialogue import render
        from sepsis_gym.files import whole_folder

        blank = self.out / _BLANK
        if tiny and not blank.exists():
            plain = plain_tokenizer()
            seen = [*self.present()[:500], *self.dynamics()[:1000], *self.imitated()[:1000]]
            texts = [render(plain, *one, answering=False) for one in seen]
            with whole_folder(blank) as target:
                write_tiny(target, texts, seed=self.config.seed)
        if stage in ("bc", "all") and not (self.out / "bc").exists():
            self.imitated()

    def base(self) -> str:
        """The tiny model once it can read."""
        from agents.curriculum.train import learn_texts

        folder, blank = self.out / _BASE, self.out / _BLANK
        if not folder.exists():
            Console().rule("reading")
            read = self.present()
            learn_texts(str(blank), read, folder, self.config.reading, self.config)
        return str(folder)

    def present(self) -> list[Any]:
        """What tiny learns to read by."""
        from agents.curriculum.texts import present

        if self._present is None:
            self._present = present(self.train_log, self.simulator)
        return self._present

    def dynamics(self) -> list[Any]:
        """Stage 1's dialogues."""
        from agents.curriculum.texts import dynamics
        from evaluation.knowledge import labels

        if self._dynamics is None:
            log, config = self.train_log, self.config
            answers = {str(question): truth for question, truth in labels(log).items()}
            self._dynamics = dynamics(
                log, self.simulator, answers, most=config.questions, seed=config.seed
            )
        return self._dynamics

    def imitated(self) -> list[Any]:
        """The teacher's dialogues worth imitating."""
        from agents.curriculum.texts import decisions, imitated

        if self._imitated is None:
            kept = self.out / _DIALOGUES
            held = decisions(self.teacher(), self.train_log, self.simulator, kept)
            self._imitated = imitated(held, self.log.preprocessing, self.config)
        return self._imitated

    def teacher(self) -> Any:
        """The rule, or the language model that was asked for."""
        from agents import make_agent
        from agents.llm import LLMAgent

        if self._teacher == LLMConfig():
            return self._rule()
        backend = open_backend(self.log.manifest.credentialed, self._teacher)
        return LLMAgent(
            backend,
            self.log.preprocessing,
            fallback=make_agent("no_treatment"),
            max_simulations=self.config.max_simulations,
            workers=self._teacher.workers,
            support_limit=self._limit,
        )

    def _rule(self) -> Any:
        from agents.llm import TeacherAgent

        rule = TeacherAgent(rounds=self.config.rounds, support_limit=self._limit)
        rule.preprocessing = self.log.preprocessing
        return rule

    def stage(self, stage: Stage, start: str) -> None:
        """Runs one stage unless it is done."""
        from agents.curriculum.texts import facts, mixed
        from agents.curriculum.train import learn_texts, reinforce

        target, config = self.out / stage, self.config
        if target.exists():
            print(f"{target} is there already")
            return
        Console().rule(f"stage {STAGES.index(stage) + 1}: {stage}")
        shutil.rmtree(self.out / _TABLE, ignore_errors=True)  # it may be of another model
        if stage == "sft":
            texts = self.dynamics()
            if config.facts_share:
                asked = facts(self.train_log, self.simulator, seed=config.seed)
                texts = mixed(texts, asked, config.facts_share, config.seed)
            learn_texts(start, texts, target, config.sft, config)
        elif stage == "bc":
            texts = mixed(self.imitated(), self.dynamics(), config.dynamics_share, config.seed)
            learn_texts(start, texts, target, config.bc, config)
        else:
            reinforce(start, self.rollouts(), target, config)

    def rollouts(self) -> Any:
        """Stage 3's decisions."""
        wanted = self.config.rl.steps * self.config.rl.patients
        per_stay = len(self.train_log.action) / len(self.train_log)
        first = np.arange(min(len(self.train_log), int(np.ceil(2 * wanted / per_stay)) + 1))
        return self._rollouts(self.train_log.select(first), self.config)

    def _rollouts(self, log: Trajectories, config: CurriculumConfig) -> Any:
        from agents.curriculum.rollout import Rollouts
        from agents.curriculum.situations import logged_situations
        from agents.guideline import GuidelineAgent
        from agents.llm.teacher import RuleBackend

        situations = list(logged_situations(log, self.simulator, progress="situations"))
        guideline = GuidelineAgent(log.preprocessing)

        def agent(simulate: bool) -> Any:  # the model in training answers, never the rule
            return self._agent(RuleBackend(), guideline, simulate=simulate)

        return Rollouts(situations, agent, self.simulator, config)

    def _agent(
        self, backend: Any, fallback: Agent, *, simulate: bool, workers: int = 1
    ) -> "LLMAgent":
        from agents.llm import LLMAgent

        return LLMAgent(
            backend,
            self.log.preprocessing,
            fallback=fallback,
            simulate=simulate,
            max_simulations=self.config.max_simulations,
            max_repairs=0,
            workers=workers,
            support_limit=self._limit,
        )

    def table(self, base: Path, stays: int, truth_patients: int) -> None:
        """Scores every stage's model, with the simulator and alone, and what it knows by itself."""
        from agents import train_agent
        from agents.guideline import GuidelineAgent
        from agents.llm import Sampling, TransformersBackend

        out = self.out / _TABLE
        out.mkdir(exist_ok=True)
        few = _few(self.log, stays)
        greedy = replace(self.config, rl=replace(self.config.rl, temperature=0.0, whole_stay=False))
        rollouts = self._rollouts(few.split("test"), greedy)
        rule = self._rule()
        measured = Ablation(few, rollouts, self.simulator, rule, out, truth_patients)
        agents: dict[str, Agent] = {
            "clinician": train_agent("clinician", self.log),
            "teacher": rule,
        }
        fallback = GuidelineAgent(self.log.preprocessing)  # as in the logged decisions
        knowledge = []
        for folder in (base, *(self.out / stage for stage in STAGES)):
            backend = TransformersBackend(
                str(folder), sampling=Sampling(max_tokens=self.config.max_tokens), batch_size=64
            )
            backend.model = folder.name
            knowledge += knowledge_of(backend, few.split("test"), workers=backend.batch_size)
            for suffix, simulate in _MODES.items():
                agent = self._agent(backend, fallback, simulate=simulate, workers=64)
                name = folder.name + suffix
                decided = measured.add(name, backend, agent, simulate=simulate)
                if decided is not None:
                    agents[name] = decided
        results = score(
            few,
            agents,
            out,
            model=self.simulator,
            truth_patients=0,
            config=EvaluationConfig(),
            company=False,
        )
        results.save(out)
        print(results.to_text())
        show(knowledge_table(knowledge), stages_table(measured.scores))
        told = {
            "knowledge": [score.to_dict() for score in knowledge],
            "stages": [asdict(score) for score in measured.scores],
        }
        (out / "stages.json").write_text(json.dumps(told, indent=1), encoding="utf-8")


def _few(log: Trajectories, stays: int) -> Trajectories:
    """The cohort with fewer test stays: a language model takes its time."""
    test = np.flatnonzero(log.stays.split == "test")
    return log.select(np.setdiff1d(np.arange(len(log)), test[stays:]))
