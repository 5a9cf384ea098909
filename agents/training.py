"""What long trainings share: a state that outlives an interruption, and curves."""

import contextlib
import hashlib
import io
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from agents.policy import TrainableAgent
from sepsis_gym.agent import BatchAgent
from sepsis_gym.errors import ConfigError
from sepsis_gym.files import whole_folder
from sepsis_gym.trajectories import Trajectories

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STATE_FOLDER, STATE_FILE, CURVES_FOLDER = ".training", "state.pt", "tensorboard"


@dataclass(frozen=True)
class TrainingConfig:
    """What all trainings in torch need; each kind says what its steps are.

    Attributes:
        n_steps: How long to train, at most.
        batch_size: Decisions per gradient update.
        learning_rate: Adam step size.
        hidden_units: Widths of the hidden layers.
        gamma: Discount per step.
        check_interval: Steps between two looks, at which curves are written and the state of the
            training is kept.
        threads: torch threads while training. More gain little on networks this small, and lose
            much where cores are shared.
    """

    n_steps: int
    batch_size: int
    learning_rate: float
    hidden_units: tuple[int, ...] = (128, 128)
    gamma: float = 0.99
    check_interval: int = 500
    threads: int = 1

    def __post_init__(self) -> None:
        """Checks the ranges."""
        self._positive("n_steps", "batch_size", "learning_rate", "check_interval", "threads")
        if not self.hidden_units or min(self.hidden_units) <= 0:
            raise ConfigError(f"hidden_units must be positive widths, got {self.hidden_units}")
        self._between("gamma", 0, 1)

    def _positive(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")

    def _between(self, name: str, low: float, high: float = math.inf) -> None:
        if not low <= getattr(self, name) <= high:
            raise ConfigError(f"{name} must be from {low} to {high}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Run:
    """Where a training keeps what it needs, and who judges it on the way.

    Attributes:
        folder: The agent's folder; None writes nothing.
        score: What a policy is worth by the validation split, higher is better. It is handed in
            because this package does not know the evaluation; None keeps the last weights.
    """

    folder: Path | None = None
    score: Callable[[BatchAgent], float] | None = None

    def keep(self, of: str, state: dict[str, Any]) -> None:
        """Writes the state of the training, tensors and plain values, whole or not at all."""
        import torch

        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_folder(self.folder / STATE_FOLDER) as temporary:
                torch.save({"of": of, **state}, temporary / STATE_FILE)

    def resume(self, of: str) -> dict[str, Any] | None:
        """The state that was kept, if there is a whole one of the same training."""
        import torch

        file = None if self.folder is None else self.folder / STATE_FOLDER / STATE_FILE
        if file is None or not file.is_file():
            return None
        try:  # weights_only: nothing is unpickled but tensors and plain values
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except Exception:  # torch names no error of its own; a damaged state is as good as none
            return None
        return state if state.get("of") == of else None

    def finish(self) -> None:
        """Forgets the state, once the agent is saved."""
        if self.folder is not None:
            shutil.rmtree(self.folder / STATE_FOLDER, ignore_errors=True)

    @contextlib.contextmanager
    def curves(self, step: int) -> Iterator[Callable[[Mapping[str, float], int], None]]:
        """Yields what writes numbers at a step for TensorBoard, to ``tensorboard`` in the folder.

        Args:
            step: Where the training begins or goes on; later points are of a lost run.

        Raises:
            ImportError: TensorBoard is not installed.
        """
        if self.folder is None:
            yield lambda _numbers, _step: None
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError('tensorboard is missing: pip install "sepsis-gym[all]"') from error
        opened: Any = SummaryWriter
        writer = opened(str(self.folder / CURVES_FOLDER), purge_step=step + 1)

        def write(numbers: Mapping[str, float], at: int) -> None:
            for name, number in numbers.items():
                writer.add_scalar(name, number, at)

        try:
            yield write
        finally:
            writer.close()


class ResumableAgent(TrainableAgent, Protocol):
    """An agent whose training can be judged on the way, and goes on where it was interrupted."""

    @classmethod
    def train(
        cls, trajectories: Trajectories, config: Any, *, seed: int, run: Run | None = None
    ) -> Self:
        """Learns; the same run started again after an interruption ends in the same agent."""
        ...


def fingerprint(config: Any, provenance: dict[str, Any]) -> str:
    """Tells one training from another: its settings, data, seed and versions."""
    described = {"config": asdict(config), **provenance}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def to_tensors(arrays: Mapping[str, "NDArray[np.float32]"]) -> dict[str, Any]:
    """Named arrays as :meth:`Run.keep` takes them."""
    import torch

    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def import_gym_quietly() -> None:
    """Loads the old gym, where it is there, without its notice about its own end.

    d3rlpy and Stable-Baselines3 both import it.
    """
    with contextlib.suppress(ImportError), contextlib.redirect_stderr(io.StringIO()):
        import gym  # noqa: F401


@contextlib.contextmanager
def torch_settings(threads: int, seed: int) -> Iterator[None]:
    """Own thread count and random stream, as they were before when it is over."""
    import torch

    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
