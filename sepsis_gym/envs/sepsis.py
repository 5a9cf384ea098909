"""``SepsisEnv``: one patient over any transition model."""

from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from sepsis_gym.actions import check_actions
from sepsis_gym.dynamics import TransitionModel
from sepsis_gym.envs.base import PatientEnv, Shown
from sepsis_gym.envs.episode import advance, begin
from sepsis_gym.envs.snapshot import Snapshot
from sepsis_gym.envs.starts import LoggedStarts, check_reset_options
from sepsis_gym.envs.support import SupportConfig, keep_to_support
from sepsis_gym.reward import RewardConfig
from sepsis_gym.trajectories import Trajectories


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

    Agents of other shapes: :class:`~sepsis_gym.envs.wrappers.MultiDiscreteAction` takes the two
    levels as ``MultiDiscrete([5, 5])``; the last k observations come stacked from
    ``gymnasium.wrappers.FlattenObservation(gymnasium.wrappers.FrameStackObservation(env, k))``.

    ## Reward
    While the stay goes on: -0.025 if SOFA is unchanged and above 0, -0.125 per point that SOFA
    rises, -2 tanh(change of lactate in mmol/L). At the end +15 if the patient is alive at 90 days,
    else -15. See :class:`~sepsis_gym.reward.RewardConfig` for the variants. ``support=`` charges
    for the model's doubt (:class:`~sepsis_gym.envs.support.SupportConfig`); train with it, and
    compare agents without it.

    ## Starting state
    The summary of the first 4 h in intensive care, drawn by the model; with
    ``gym.make("SepsisWM-v0", start_from=FOLDER)`` that of a logged stay of a cohort, by default one
    held out from training: ``reset(options={"stay_id": ...})`` chooses which, else one is drawn.
    Logged stays cannot start the mechanistic patient.

    ## Episode end
    ``terminated`` on ICU discharge, death, or after 72 h of decisions; the last pays the outcome,
    and the observation holds the clock, so nothing is ever ``truncated``
    (``gym.make(..., max_episode_steps=6)`` truncates after a day). With a support limit also where
    the model knows too little about the action, which pays ``halt_reward`` and no outcome.

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
    | ``died_90d`` | -1 while ongoing and after leaving the support, else 0 or 1 |
    | ``stay_id`` | the logged stay, with ``start_from`` only |

    ## Rendering
    ``ansi``: the bedside chart as text. ``rgb_array``: a figure of the stay so far (matplotlib, the
    ``figures`` extra). ``human``: that figure in a window at every ``reset`` and ``step``, or the
    bedside chart printed where no window can be opened.

    ## Planning
    ``simulate(actions)`` predicts one step without taking it. ``get_state()`` and
    ``set_state(state)`` go back to any moment, the random stream included: the same actions then
    give the same trajectory. A state may be carried to another environment over the same model;
    a vector environment takes the state of one patient for all its places. Both methods are
    ``env.unwrapped``'s: what wrappers count (a time limit's steps, say) does not go back with them.

    ## Version history
    - v0: first release.
    """  # noqa: E501

    def __init__(
        self,
        model: TransitionModel,
        *,
        reward: RewardConfig | None = None,
        support: SupportConfig | None = None,
        start_from: Trajectories | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Opens the environment over a model of patients.

        Args:
            model: The dynamics.
            reward: The reward; the published one if not given.
            support: Guards against exploiting the model; none if not given.
            start_from: Logged stays to start from; the model draws its starts if not given.
            render_mode: ``ansi``, ``rgb_array``, ``human`` or None.

        Raises:
            ConfigError: The model cannot go on from these stays.
        """
        super().__init__(model.preprocessing, model, render_mode)
        self.dynamics = model
        self.reward = reward or RewardConfig()
        self.support = support or SupportConfig()
        self._starts = None if start_from is None else LoggedStarts(start_from, model)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Shown:
        """Admits a new patient.

        Args:
            seed: Starts the random stream anew.
            options: ``stay_id``, the logged stay to start from.

        Raises:
            ConfigError: There is an unknown option, or ``stay_id`` without ``start_from``.
            UnknownNameError: ``stay_id`` is none of the stays of ``start_from``.
        """
        super().reset(seed=seed)
        asked = check_reset_options(options, {"stay_id"}, self._starts)
        if self._starts is None:
            patients = self.dynamics.start(1, self.np_random)
        else:
            stay_id = asked.get("stay_id")
            chosen = self._starts.draw(1, self.np_random) if stay_id is None else [stay_id]
            patients = self._starts.patients(chosen, self.np_random)
            self._stay_id = int(chosen[0])
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
        chosen = check_actions(action).reshape(1)
        moved, paid = advance(self.dynamics, state, chosen, self.reward, self.np_random)
        following, reward = keep_to_support(moved, paid, self.support)
        observation, info = self._show(following)
        return observation, reward.item(), bool(following.end.item()), False, info

    def get_state(self) -> Snapshot:
        """Everything that decides how the episode goes on, to be handed to :meth:`set_state`.

        Raises:
            gymnasium.error.ResetNeeded: ``reset`` was never called.
        """
        if self._state is None:
            raise ResetNeeded("get_state() needs reset() first")
        stay_id = None if self._stay_id is None else np.array([self._stay_id])
        return Snapshot.take(
            self._state, self.np_random, self.dynamics, stay_id=stay_id, history=self._history
        )

    def set_state(self, state: Snapshot) -> None:
        """Goes back to where :meth:`get_state` was called, here or in another environment.

        Raises:
            ConfigError: The state comes from other dynamics, or is that of several patients.
        """
        episodes, stay_id = state.spread(1)
        state.rewind(self.np_random, self.dynamics)
        self._state, self._history = episodes, state.history or (episodes,)
        self._stay_id = None if stay_id is None else int(stay_id[0])
