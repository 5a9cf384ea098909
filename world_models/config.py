"""Settings of a world model's size and training; free of torch, so that it is cheap to import."""

from dataclasses import dataclass
from typing import Literal, get_args

from sepsis_gym.errors import ConfigError

EffectSource = Literal["truth", "prior", "log"]


@dataclass(frozen=True)
class TrainConfig:
    """Size and training of a world model.

    Attributes:
        members: Size of the ensemble.
        hidden: Width of the recurrent state and of the head.
        epochs: Most passes over the training split.
        patience: Epochs without a better validation loss before training stops.
        batch_size: Stays per gradient step.
        learning_rate: Of AdamW at the start; it falls to 0 by a cosine over ``epochs``.
        weight_decay: Of AdamW.
        dropout: Share of the hidden units left out per stay.
        open_loop_share: Share of stays in which the network is on its own from some step on.
        simulated_share: Share of these stays in which it goes on from its own predictions as if
            read, as an environment's courses do; in the rest, from what was read last. Truer
            outcomes of unusual treatment, larger errors of levels.
        effects: Where it is told what doses do, beside the log: the ``truth`` of a synthetic
            cohort; a ``prior`` of average blood-pressure responses; or from the ``log`` alone,
            which can rank treatments backwards where doses answer to the patient.
        effect_weight: Weight of these effects in the loss.
        effect_share: Share of the steps at which they are asked for.
        level_weight: Weight of all else; 0 trains on effects alone, to see what the inputs tell of
            them.
        seed: Of the initial weights, the order of stays and the members' stay weights.
        device: Where to train, such as ``cpu`` or ``cuda``.
        bfloat16: Whether to run the network in bfloat16 (on a GPU).
        init: Name or folder of a world model to go on from, whose size and scales are kept; None
            to begin anew.
    """

    members: int = 3
    hidden: int = 128
    epochs: int = 30
    patience: int = 8
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    dropout: float = 0.0
    open_loop_share: float = 0.5
    simulated_share: float = 0.0
    effects: EffectSource = "prior"
    effect_weight: float = 10.0
    effect_share: float = 0.3
    level_weight: float = 1.0
    seed: int = 0
    device: str = "cpu"
    bfloat16: bool = False
    init: str | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in ("members", "hidden", "epochs", "patience", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if not 0 < self.learning_rate < 1 or not self.weight_decay >= 0:
            raise ConfigError("learning_rate must lie in (0, 1) and weight_decay be 0 or more")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must be 0 or more (and fit 63 bits), got {self.seed}")
        if self.effects not in get_args(EffectSource):
            raise ConfigError(f"effects must be of {get_args(EffectSource)}, got {self.effects!r}")
        if not (self.effect_weight >= 0 and self.level_weight >= 0):
            raise ConfigError("effect_weight and level_weight must be 0 or more")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must lie in [0, 1), got {self.dropout}")
        for name in ("effect_share", "open_loop_share", "simulated_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
