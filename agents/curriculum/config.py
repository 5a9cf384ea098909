"""How a language model is trained, stage by stage."""

from dataclasses import dataclass, field
from typing import Literal

from sepsis_gym.errors import ConfigError

Stage = Literal["sft", "bc", "rl"]
STAGES: tuple[Stage, ...] = ("sft", "bc", "rl")
"""Patient dynamics, imitation of the teacher, reinforcement in the world model."""


@dataclass(frozen=True)
class SupervisedConfig:
    """A stage that learns texts.

    Attributes:
        steps: Of the optimizer.
        widening_steps: How many of them, the first, show only what stands before an answer: little
            at first, then ever more. In a thousand tokens at once a model from scratch takes long
            to find what matters.
        batch_size: Dialogues to a step.
        at_once: How many of them are computed at a time; it bounds the memory.
        learning_rate: At its highest.
    """

    steps: int = 600
    widening_steps: int = 0
    batch_size: int = 32
    at_once: int = 4
    learning_rate: float = 1e-4


@dataclass(frozen=True)
class ReinforcementConfig:
    """Group-relative policy optimization (Shao et al. 2024) in the world model.

    A decision is worth what :class:`agents.planner.PlanningAgent` expects of it beyond what it
    expects of the guideline's: some steps of published reward and the outcome, less a charge for
    the model's doubt.

    Attributes:
        steps: Of the optimizer.
        patients: States to a step.
        group: Decisions drawn in each state, which share the patient and the random stream.
        all_doses: Whether a prescription's digits learn what all 25 doses are worth, and nothing
            else learns (:mod:`agents.curriculum.doses`). For a model that does not reason before it
            prescribes. A group's decisions are then some with the simulator, some without.
        bound: What a single decision may be worth at most, either way; some rare states would
            outweigh all others. Not in whole stays.
        at_once: Decisions computed at a time; it bounds the memory.
        learning_rate: At its highest.
        temperature: Of the draws.
        kl: Weight of the divergence from the model before the stage.
        whole_stay: Whether a decision is worth what the world model pays until the stay ends, the
            model itself deciding on, instead.
        horizon: Steps the planner looks ahead. The best policy that a single one pays for is truly
            worse than the guideline (``benchmarks/curriculum_reward.py``).
        doubt: Its charge per unit of the ensemble's disagreement; not in whole stays.
        guideline: Charged per level away from the guideline's doses.
        invalid: Charged per reply that is no valid call. What the fallback then decides is worth
            no more than the worst of the other decisions.
    """

    steps: int = 200
    patients: int = 8
    group: int = 8
    all_doses: bool = False
    bound: float = 3.0
    at_once: int = 4
    learning_rate: float = 1e-5
    temperature: float = 1.0
    kl: float = 0.0
    whole_stay: bool = False
    horizon: int = 2
    doubt: float = 20.0
    guideline: float = 0.6
    invalid: float = 1.0


@dataclass(frozen=True)
class CurriculumConfig:
    """The three stages and what they share; the defaults suit some billion parameters and LoRA.

    Attributes:
        reading: Of ``tiny`` alone, before them: to read what is told of a patient.
        sft: Stage 1.
        bc: Stage 2.
        rl: Stage 3.
        questions: Most to a dialogue of stage 1. More share one reading of the patient; one stands
            where a model from scratch finds what it asks about.
        lora_rank: Of the adapters that are trained and then merged; None to train all weights.
        max_tokens: Longest reply.
        rounds: Simulations of the rule teacher, 1 or 2.
        max_simulations: Simulations the agent may ask for in a decision.
        without_simulator: Share of decisions, in imitation and reinforcement, without the tool, so
            that the model learns what would have been simulated.
        facts_share: Share of stage 1's dialogues that ask for a yes or no about what is told:
            without them a model from scratch does not find what an outcome depends on.
        dynamics_share: Share of stage 2's dialogues that are stage 1's.
        stays: Training stays used; None for all.
        survivors_only: Whether only stays that survived 90 days are imitated.
        guideline_reach: Levels of either drug by which imitated doses may differ from the
            guideline's; 4 for any.
        dtype: float32, bfloat16, or auto: bfloat16 on a GPU.
        seed: Of everything.
    """

    reading: SupervisedConfig = SupervisedConfig()
    sft: SupervisedConfig = SupervisedConfig()
    bc: SupervisedConfig = SupervisedConfig()
    rl: ReinforcementConfig = field(default_factory=ReinforcementConfig)
    questions: int = 4
    lora_rank: int | None = 32
    max_tokens: int = 512
    rounds: int = 2
    max_simulations: int = 2
    without_simulator: float = 0.5
    facts_share: float = 0.0
    dynamics_share: float = 0.2
    stays: int | None = None
    survivors_only: bool = False
    guideline_reach: int = 4
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses batches that do not divide, and shares that leave nothing."""
        for name in ("facts_share", "dynamics_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 0 or more and below 1")
        for stage, whole in (
            (self.sft, self.sft.batch_size),
            (self.bc, self.bc.batch_size),
            (self.rl, self.rl.patients * self.rl.group),
        ):
            if whole % stage.at_once:
                raise ConfigError(f"at_once {stage.at_once} does not divide a batch of {whole}")
        if self.rl.group < 2:
            raise ConfigError("rl.group must be 2 or more: decisions are compared with each other")
        if self.rl.bound <= 0:
            raise ConfigError("rl.bound must be above 0, or every decision is worth the same")
        if self.rl.all_doses and (self.rl.whole_stay or self.rl.kl <= 0):
            raise ConfigError(
                "rl.all_doses needs rl.kl above 0, which alone holds the words in place, and "
                "not rl.whole_stay, in which no dose but the drawn one is valued"
            )


TINY = CurriculumConfig(
    stays=1500,
    questions=1,
    reading=SupervisedConfig(
        500, widening_steps=500, batch_size=16, at_once=16, learning_rate=3e-3
    ),
    sft=SupervisedConfig(1000, widening_steps=1000, batch_size=48, at_once=48, learning_rate=1e-3),
    bc=SupervisedConfig(1000, widening_steps=750, batch_size=16, at_once=16, learning_rate=2e-3),
    rl=ReinforcementConfig(
        steps=40, patients=32, group=2, all_doses=True, at_once=64, learning_rate=5e-4, kl=0.3
    ),
    facts_share=0.3,
    lora_rank=None,
    max_tokens=160,
    rounds=1,
    max_simulations=1,
)
"""For the model of :mod:`agents.curriculum.tiny`."""
