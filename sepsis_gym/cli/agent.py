"""``sepsis-gym agent``: list the agents and train one."""

from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table
from tyro import MISSING_NONPROP
from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

from sepsis_gym.errors import ConfigError
from sepsis_gym.trajectories import Trajectories

app = SubcommandApp()


@app.command(name="list")
def list_agents() -> None:
    """Lists the agents by name."""
    from agents import available_agents

    table = Table("agent", "what it is")
    for name, description in available_agents().items():
        table.add_row(name, description)
    Console().print(table)


@app.command(name="train")
def train(
    name: Positional[str],
    cohort: Path,
    out: Path,
    settings: Annotated[tuple[str, ...], arg(name="set")] = (),
    select: bool = True,
    seed: int = 0,
) -> None:
    """Trains an agent on a cohort; run again after an interruption, it goes on.

    Curves for TensorBoard lie in OUT/tensorboard.

    Args:
        name: One of ``sepsis-gym agent list``.
        cohort: Folder written by ``sepsis-gym cohort``.
        out: Agent folder to write.
        settings: Settings other than by default, such as ``--set n_steps=1000 hidden_units=64,64``;
            ``--set help`` lists the agent's.
        select: Whether an offline agent that learns values stops by, and keeps the weights of,
            the best fitted Q evaluation on the validation split.
        seed: Of the training.
    """
    from agents import config_type, train_agent
    from evaluation import EvaluationConfig, validation_value

    config = changed(config_type(name), settings, f"agent train {name} --set")
    trajectories = Trajectories.load(cohort)
    score = validation_value(trajectories, gamma=EvaluationConfig().gamma) if select else None
    train_agent(name, trajectories, out, config=config, seed=seed, score=score)
    print(f"written to {out}")


def changed(
    config_type: Any, settings: tuple[str, ...], command: str, default: Any = MISSING_NONPROP
) -> Any:
    """Settings of this type, some of them changed by ``NAME=VALUE``, checked by their types.

    Args:
        config_type: Dataclass.
        settings: The changes; ``help`` alone lists the names.
        command: What the help is headed by.
        default: What is changed; the type's own defaults if not given.
    """
    args = ["--help"] if settings == ("help",) else []
    for setting in () if args else settings:
        key, separator, value = setting.partition("=")
        if not separator:
            raise ConfigError(f"--set {setting}: expected NAME=VALUE; --set help lists the names")
        flag = f"--{key.replace('_', '-')}"
        args += [flag, *value.split(",")] if "," in value else [f"{flag}={value}"]
    return tyro.cli(config_type, args=args, prog=command, default=default)
