"""``sepsis-gym agent``: list the agents and train one."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from tyro.extras import SubcommandApp

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
def train(name: str, cohort: Path, out: Path, seed: int = 0) -> None:
    """Trains an agent on a cohort's training split.

    Args:
        name: One of ``sepsis-gym agent list``.
        cohort: Folder written by ``sepsis-gym cohort``.
        out: Agent folder to write.
        seed: Of the training.
    """
    from agents import train_agent

    train_agent(name, Trajectories.load(cohort), out, seed=seed)
    print(f"written to {out}")
