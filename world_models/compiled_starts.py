"""The draw of first states compiled by numba; ``StartStates.draw`` in numpy stays the reference."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sepsis_gym.features import N_FEATURES
from sepsis_gym.patients import Patients
from sepsis_gym.preprocessing import NEVER, Preprocessing
from world_models.start_states import N_AMOUNTS, N_OPTIONAL, NODES, WHOLE, StartStates

_Floats = NDArray[np.float32]
_N, _LAST = N_FEATURES, len(NODES) - 1
_FIRST = np.float32(NODES[0])
_NODES_PER_SCORE = np.float32(_LAST / (NODES[-1] - NODES[0]))
_IS_WHOLE = np.zeros(N_AMOUNTS, np.bool_)
for _whole in WHOLE:
    _IS_WHOLE[_whole] = True
_AGE, _CHARLSON = N_AMOUNTS - 2, N_AMOUNTS - 1
_MALE, _VENTILATED = N_OPTIONAL, N_OPTIONAL + 1


class CompiledStarts:
    """Draws what ``starts`` draws, number for number."""

    def __init__(self, starts: StartStates, preprocessing: Preprocessing) -> None:
        """Keeps the tables."""
        *_, fill, hold = preprocessing.feature_table()
        self._starts = starts
        self._tables = (
            starts.quantiles, starts.rises, starts.threshold, starts.younger,
            np.asarray(fill, np.float32), np.asarray(hold, np.int64),
        )  # fmt: skip

    def draw(self, n: int, rng: np.random.Generator, memory: _Floats) -> Patients:
        """Draws n patients, who get this ``memory``."""
        scores, chance = self._starts.luck(n, rng)
        patients = Patients(
            values=np.empty((n, _N), np.float32),
            age=np.empty((n, _N), np.int16),
            ventilated=np.empty(n, np.bool_),
            static=np.empty((n, 3), np.float32),
            previous_fluid_ml=np.empty(n, np.float32),
            previous_norepinephrine_equivalent=np.empty(n, np.float32),
            step=np.zeros(n, np.int64),
            memory=memory,
        )
        _fill(
            *self._tables, scores, chance, patients.values, patients.age, patients.ventilated,
            patients.static, patients.previous_fluid_ml,
            patients.previous_norepinephrine_equivalent,
        )  # fmt: skip
        return patients


@njit(cache=True, error_model="numpy", nogil=True)
def _fill(  # type: ignore[no-untyped-def]
    quantiles, rises, threshold, younger, fill, hold, scores, chance,
    values, age, ventilated, static, fluid, dose,
):  # fmt: skip
    amount = np.empty(len(quantiles), np.float32)
    for at in range(len(scores)):
        flag = scores[at, len(quantiles) :] > threshold
        for i in range(len(amount)):
            place = (scores[at, i] - _FIRST) * _NODES_PER_SCORE
            place = min(max(place, np.float32(0)), np.float32(_LAST))
            below = int(place)
            rise = (place - np.float32(below)) * rises[i, below]
            amount[i] = quantiles[i, below] + rise
            if _IS_WHOLE[i]:
                amount[i] = np.rint(amount[i])
        for i in range(_N):
            old = 0
            for k in range(younger.shape[1]):
                old += chance[at, i, 0] > younger[i, k]
            age[at, i] = old if flag[i] else NEVER
            values[at, i] = amount[i] if flag[i] and old <= hold[i] else fill[i]
        fluid[at] = amount[_N] if flag[_N] else 0
        dose[at] = amount[_N + 1] if flag[_N + 1] else 0
        static[at, 0], static[at, 1], static[at, 2] = amount[_AGE], flag[_MALE], amount[_CHARLSON]
        ventilated[at] = flag[_VENTILATED]
