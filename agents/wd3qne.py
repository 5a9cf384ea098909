"""WD3QNE, the strongest published value-based agent for sepsis, as its authors' code has it.

Source: Wu, Li, He, Yu & Cheng 2023, "A value-based deep reinforcement learning model with human
expertise in optimal treatment of sepsis", npj Digital Medicine 6:15.
"""

import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from agents.learner import Arrays, Learner, OfflineAgent, QLearningConfig, Transitions
from agents.network import Network
from sepsis_gym.actions import N_ACTIONS

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Wd3qneConfig(QLearningConfig):
    """Settings of WD3QNE.

    Attributes:
        head_units: Width of the hidden layer of each of the two heads, value and advantage.
        expert_sofa: SOFA of the state below which the clinician's next action is what the next
            state is valued by.
    """

    head_units: int = 256
    expert_sofa: int = 4

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        self._positive("head_units")
        self._between("expert_sofa", 0, 24)


class Wd3qneAgent(OfflineAgent):
    """Weighted dueling double deep Q-learning in which mild states follow the clinicians.

    With target network T, a* = argmax Q(s') and b* = argmax T(s'), the next state s' is worth::

        T(s', a')                                 if SOFA(s) < 4, a' the clinician's next action
        w T(s', a*) + (1 - w) T(s', b*)           else, w = exp T(s', a*) / (exp T(s', a*)
                                                                           + exp T(s', b*))

    The weight is of values in the rewards' own unit, though learning uses scaled ones.
    """

    config: Wd3qneConfig
    config_type: ClassVar[type] = Wd3qneConfig
    _NETWORKS = ("advantage",)  # the value is the same for all actions

    @classmethod
    def learner(cls, config: Wd3qneConfig, reward_scale: float) -> tuple[Learner, dict[str, str]]:
        """The algorithm, and torch's version."""
        try:
            import torch
        except ImportError as error:
            raise ImportError('torch is missing: pip install "sepsis-gym[torch]"') from error
        return _Learner(config, reward_scale, cls.INPUTS), {
            "torch": torch.__version__.partition("+")[0]
        }


class _Learner:
    def __init__(self, config: Wd3qneConfig, reward_scale: float, inputs: int) -> None:
        import torch
        from torch import nn

        self.config, self.reward_scale = config, reward_scale
        widths = (inputs, *config.hidden_units)
        trunk: list[nn.Module] = []
        for before, after in pairwise(widths):
            trunk += [nn.Linear(before, after), nn.ReLU()]

        def head(n: int) -> nn.Module:
            hidden = nn.Linear(widths[-1], config.head_units)
            return nn.Sequential(hidden, nn.ReLU(), nn.Linear(config.head_units, n))

        parts = {"trunk": nn.Sequential(*trunk), "value": head(1), "advantage": head(N_ACTIONS)}
        self.online = nn.ModuleDict(parts).to(config.device)
        self.target = copy.deepcopy(self.online)
        self.optimizer = torch.optim.Adam(self.online.parameters(), lr=config.learning_rate)
        self.updates = 0

    def update(self, batch: Transitions) -> dict[str, float]:
        import torch

        data = {
            name: torch.from_numpy(array).to(self.config.device)
            for name, array in vars(batch).items()
        }
        with torch.no_grad():
            worth = self._worth(data)
            target = data["reward"] + self.config.gamma * (1 - data["terminal"]) * worth
        taken = _q(self.online, data["observation"]).gather(1, data["action"].long())
        loss: Any = torch.nn.functional.smooth_l1_loss(taken, target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.updates += 1
        if self.updates % self.config.target_update_interval == 0:
            self.target.load_state_dict(self.online.state_dict())
        return {"loss": loss.item()}

    def _worth(self, data: dict[str, "torch.Tensor"]) -> "torch.Tensor":
        """[n, 1] of the next states."""
        values = _q(self.target, data["following"])
        chosen = _q(self.online, data["following"]).argmax(1, keepdim=True)
        own, best = values.gather(1, chosen), values.max(1, keepdim=True).values
        weight = ((own - best) * self.reward_scale).sigmoid()
        expert = values.gather(1, data["next_action"].long())
        mild = data["sofa"] < self.config.expert_sofa
        return expert.where(mild, weight * own + (1 - weight) * best)

    def weights(self) -> Arrays:
        network = Network.from_torch(self.online["trunk"], self.online["advantage"])
        return network.to_weights("advantage")

    def state(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in ("online", "target")}
        return {**parts, "optimizer": self.optimizer.state_dict(), "updates": self.updates}

    def go_on_from(self, state: dict[str, Any]) -> None:
        for name in ("online", "target", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.updates = state["updates"]


def _q(network: Any, observation: "torch.Tensor") -> "torch.Tensor":
    """[n, 25] value plus what each action has above the mean of all."""
    seen = network["trunk"](observation)
    advantage: torch.Tensor = network["advantage"](seen)
    value: torch.Tensor = network["value"](seen)
    return value + advantage - advantage.mean(1, keepdim=True)
