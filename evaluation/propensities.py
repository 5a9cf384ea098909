"""Known probabilities of the clinicians' actions, which some simulated cohorts carry."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evaluation.ratio_of_sums import Floats
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.errors import SourceError
from sepsis_gym.trajectories import Trajectories

FILE = "propensities.parquet"
_MOST_IMPOSSIBLE = 0.01
_COLUMNS = ("stay_id", "step", *(f"p_{action}" for action in range(N_ACTIONS)))


@dataclass(frozen=True)
class Propensities:
    """The true behavior policy at the decisions of a cohort.

    An action that had probability 0 was nobody's choice, such as a dose that comfort care cut
    short. It tells nothing about what a target policy would have chosen, so its ratio is 1; more
    than one in a hundred means that the file belongs to other decisions.

    Attributes:
        probability: [25] by (stay id, step).
        file: Where they were read.
    """

    probability: dict[tuple[int, int], Floats]
    file: Path

    @classmethod
    def read(cls, cohort: str | os.PathLike[str]) -> "Propensities":
        """Those beside a cohort.

        Args:
            cohort: Folder of ``sepsis-gym cohort synthetic --decision-interval-hours 4``.

        Raises:
            SourceError: There are none, or a row is no probability distribution.
        """
        file = Path(cohort) / FILE
        if not file.is_file():
            raise SourceError(
                f"{file}: no such file; the propensities are known only of a cohort made with "
                "sepsis-gym cohort synthetic --decision-interval-hours 4"
            )
        try:
            table = pq.read_table(file, columns=list(_COLUMNS))
        except pa.ArrowException as error:
            raise SourceError(f"{file}: {error}") from error
        stay, step, *chances = (column.to_numpy() for column in table.columns)
        chance = np.stack(chances, axis=1)
        wrong = ~((chance >= 0).all(1) & (np.abs(chance.sum(1) - 1) < 1e-6))
        if wrong.any():
            row = int(wrong.argmax())
            raise SourceError(f"{file}: p_0 to p_24 of stay {stay[row]}, step {step[row]} do not "
                              "add up to 1")  # fmt: skip
        keys = zip(stay.tolist(), step.tolist(), strict=True)
        return cls(dict(zip(keys, chance, strict=True)), file)

    @property
    def digest(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    def of(self, log: Trajectories) -> tuple[Floats, NDArray[np.bool_]]:
        """[n, 25] of a log's decisions, and [n] which actions were nobody's choice.

        Raises:
            SourceError: A decision is missing, or the logged action is too often impossible.
        """
        rows = log.is_decision
        stay, action = log.stays.stay_id[log.stay_of_row[rows]], log.action[rows]
        keys = list(zip(stay.tolist(), log.step[rows].tolist(), strict=True))
        missing = [key for key in keys if key not in self.probability]
        if missing:
            raise SourceError(f"{self.file}: no row for stay {missing[0][0]}, step {missing[0][1]}")
        chance = np.stack([self.probability[key] for key in keys])
        impossible = chance[np.arange(len(action)), action] == 0
        if impossible.mean() > _MOST_IMPOSSIBLE:
            raise SourceError(
                f"{self.file}: {impossible.mean():.1%} of the logged actions have probability 0; "
                "the file belongs to another cohort or to other dose levels"
            )
        return chance, impossible
