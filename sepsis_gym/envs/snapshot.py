"""An environment's whole state, to go back to: what planners branch from."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.dynamics import TransitionModel
from sepsis_gym.envs.episode import EpisodeState
from sepsis_gym.errors import ConfigError
from sepsis_gym.preprocessing import Preprocessing


@dataclass(frozen=True)
class Snapshot:
    """What ``get_state`` returns and ``set_state`` takes; opaque to everyone else.

    States are never changed in place, so it only refers to them and costs next to nothing.

    Attributes:
        episodes: Where the n episodes stand.
        stay_id: [n] logged stays they began from; None if the model drew their start.
        history: States of the stay so far, for the figure.
        stream: Position of the random stream.
        model: Kind of the dynamics.
        preprocessing: Their clock, scales and dose levels.
    """

    episodes: EpisodeState
    stay_id: NDArray[np.int64] | None
    history: tuple[EpisodeState, ...]
    stream: dict[str, Any]
    model: type[TransitionModel]
    preprocessing: Preprocessing

    @classmethod
    def take(
        cls,
        episodes: EpisodeState,
        rng: np.random.Generator,
        model: TransitionModel,
        *,
        stay_id: NDArray[np.int64] | None = None,
        history: tuple[EpisodeState, ...] = (),
    ) -> Self:
        """Remembers the episodes and where ``rng`` stands."""
        stream: dict[str, Any] = dict(rng.bit_generator.state)
        return cls(episodes, stay_id, history, stream, type(model), model.preprocessing)

    def spread(self, n: int) -> tuple[EpisodeState, NDArray[np.int64] | None]:
        """The episodes and their stays for n places; a single one is copied to all.

        Raises:
            ConfigError: There are neither n nor one.
        """
        here = len(self.episodes.end)
        if here == n:
            return self.episodes, self.stay_id
        if here != 1:
            wanted = "one patient" if n == 1 else f"one patient or {n}"
            raise ConfigError(f"set_state() takes the state of {wanted}, got that of {here}")
        copies: NDArray[Any] = np.zeros(n, np.int64)
        return self.episodes.take(copies), None if self.stay_id is None else self.stay_id[copies]

    def rewind(self, rng: np.random.Generator, model: TransitionModel) -> None:
        """Puts ``rng`` back to where the stream stood.

        Raises:
            ConfigError: The state comes from an environment over other dynamics.
        """
        if type(model) is not self.model or model.preprocessing != self.preprocessing:
            raise ConfigError("set_state() takes the state of an environment over the same model")
        rng.bit_generator.state = self.stream
