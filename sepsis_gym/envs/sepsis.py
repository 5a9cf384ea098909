"""``SepsisEnv``: one patient over any transition model."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.actions import check_actions
from sepsis_gym.dynamics import TransitionModel
from sepsis_gym.envs.base import PatientEnv, Shown
from sepsis_gym.envs.episode import advance, begin
from sepsis_gym.errors import ConfigError
from sepsis_gym.reward import RewardConfig


class SepsisEnv(PatientEnv):
    """Treat a septic patient in intensive care, one dose decision every 4 hours.

    Research software, never for patient care.

    ## Dynamics
    | id | the next state comes from | ``simulate`` |
    |---|---|---|
    | ``SepsisWM-v0`` | a learned world model | predicts; ``epistemic`` says how surely |
    | ``SepsisPhysio-v0`` | a mechanistic patient | is the truth but for luck; ``epistemic`` is 0 |

    All else is the same. In the mechanistic patient two environments that are reset with one seed
    hold the same patient and meet the same luck whatever their actions are, the fluid is an even
    drip over the step, and comfort care, once begun, overrides the action: ``previous_action``
    says what was given. Its ``mortality_90d`` is the risk of a patient who leaves in that state.

    ## Action space
    ``Discrete(25)``: ``action = 5 * fluid_level + vasopressor_level``. Level 0 is none; levels 1-4
    are the quartiles of the non-zero doses in the training split, each standing for the median
    dose of its quartile (``env.unwrapped.preprocessing.action_bins``; fluid in tonicity-adjusted
    mL per step, vasopressor in norepinephrine-equivalent ug/kg/min).

    ## Observation space
    ``Box(107,)`` float32:

    | index | content | bounds |
    |---|---|---|
    | 0-38 | the 39 features of ``sepsis_gym.features.FEATURES`` as z-scores (of log1p where skewed) | the feature's physical limits |
    | 39-76 | whether each but the last (urine) was measured in this step | 0, 1 |
    | 77-79 | age, male, Charlson index as z-scores | -20, 20 |
    | 80 | invasive ventilation | 0, 1 |
    | 81-105 | previous action, one-hot: what was given up to this state | 0, 1 |
    | 106 | decisions taken / most decisions | 0, 1 |

    Features not measured in the step are carried forward for a bounded time, then shown as the
    training median.

    ## Reward
    While the stay goes on: -0.025 if SOFA is unchanged and above 0, -0.125 per point that SOFA
    rises, -2 tanh(change of lactate in mmol/L). At the end +15 if the patient is alive at 90 days,
    else -15. See :class:`~sepsis_gym.reward.RewardConfig` for the variants.

    ## Starting state
    Drawn by the model: the summary of the first 4 h in intensive care.

    ## Episode end
    ``terminated`` on ICU discharge, death, or after 72 h of decisions; the last pays the outcome,
    and the observation holds the clock, so nothing is ever ``truncated``.

    ## Info
    | key | content |
    |---|---|
    | ``state`` | [39] features in clinical units |
    | ``measured``, ``known``, ``age_hours`` | [39] measured now; measured within its hold time; hours since |
    | ``static`` | [3] age in years, male, Charlson index |
    | ``ventilated``, ``sofa`` | invasive ventilation; SOFA of the state |
    | ``previous_action``, ``previous_fluid_ml``, ``previous_norepinephrine_equivalent`` | what led here |
    | ``step``, ``hours`` | decisions taken; hours since ICU admission |
    | ``mortality_90d`` | predicted probability of death by day 90 (-1 at reset) |
    | ``epistemic`` | disagreement of the ensemble about the last step, in mean z-score units |
    | ``end`` | code of ``sepsis_gym.dynamics.End`` |
    | ``died_90d`` | -1 while ongoing, then 0 or 1 |

    ## Version history
    - v0: first release.
    """  # noqa: E501

    def __init__(
        self,
        model: TransitionModel,
        *,
        reward: RewardConfig | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Opens the environment over a model of patients.

        Args:
            model: The dynamics.
            reward: The reward; the published one if not given.
            render_mode: ``ansi`` or None.
        """
        super().__init__(model.preprocessing, model, render_mode)
        self.dynamics = model
        self.reward = reward or RewardConfig()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Shown:
        """Admits a new patient."""
        super().reset(seed=seed)
        if options:
            raise ConfigError(f"SepsisEnv takes no reset options, got {sorted(options)}")
        patients = self.dynamics.start(1, self.np_random)
        return self._show(begin(patients, self.preprocessing))

    def step(
        self, action: np.int64 | int
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Gives the doses of ``action`` for one step.

        Raises:
            InvalidActionError: The action is not one of the 25.
            gymnasium.error.ResetNeeded: The episode is over or has not begun.
        """
        state = self._ongoing()
        chosen = np.atleast_1d(check_actions(action))
        following, reward = advance(self.dynamics, state, chosen, self.reward, self.np_random)
        observation, info = self._show(following)
        return observation, float(reward[0]), bool(following.terminated[0]), False, info
