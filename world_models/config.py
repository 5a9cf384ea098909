"""Settings of a world model's size and training; free of torch, so that it is cheap to import."""

from dataclasses import dataclass

from sepsis_gym.errors import ConfigError


@dataclass(frozen=True)
class TrainConfig:
    """Size and training of a world model.

    Attributes:
        members: Size of the ensemble.
        hidden: Width of the recurrent state and of the head.
        epochs: Most passes over the training split.
        patience: Epochs without a better validation loss before training stops.
        batch_size: Stays per gradient step.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        dropout: Share of the hidden units left out per stay.
        open_loop_share: Share of stays in which the network is on its own from some step on.
        seed: Of the initial weights, the order of stays and the members' stay weights.
        device: Where to train, such as ``cpu`` or ``cuda``.
        bfloat16: Whether to run the network in bfloat16 (on a GPU).
    """

    members: int = 3
    hidden: int = 64
    epochs: int = 60
    patience: int = 8
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.3
    dropout: float = 0.3
    open_loop_share: float = 0.5
    seed: int = 0
    device: str = "cpu"
    bfloat16: bool = False

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in ("members", "hidden", "epochs", "patience", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if not 0 < self.learning_rate < 1 or not self.weight_decay >= 0:
            raise ConfigError("learning_rate must lie in (0, 1) and weight_decay be 0 or more")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must be 0 or more (and fit 63 bits), got {self.seed}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must lie in [0, 1), got {self.dropout}")
        if not 0 <= self.open_loop_share <= 1:
            raise ConfigError(f"open_loop_share must lie in [0, 1], got {self.open_loop_share}")
