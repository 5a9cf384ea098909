"""``sepsis-gym cohort``: trajectories from MIMIC-IV, CLIF or the provisional generator."""

from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import OmitArgPrefixes
from tyro.extras import SubcommandApp

from sepsis_gym.cohort.assemble import AssemblyConfig
from sepsis_gym.cohort.clif import build_clif
from sepsis_gym.cohort.describe import describe
from sepsis_gym.cohort.describe_render import to_text, write_description
from sepsis_gym.cohort.mimic import MimicConfig, build_mimic
from sepsis_gym.cohort.provisional import write_provisional_tables
from sepsis_gym.trajectories import SPLITS, Trajectories

PROVISIONAL_SOURCE = "provisional synthetic generator"

app = SubcommandApp()


@app.command(name="mimic")
def mimic(
    mimic_dir: Path,
    out: Path,
    credentialed: bool = True,
    config: Annotated[MimicConfig, OmitArgPrefixes] = MimicConfig(),  # noqa: B008
    assembly: Annotated[AssemblyConfig, OmitArgPrefixes] = AssemblyConfig(),  # noqa: B008
) -> None:
    """Builds Sepsis-3 trajectories from a MIMIC-IV folder (hosp/ and icu/ tables).

    Args:
        mimic_dir: Folder with hosp/ and icu/, as .csv, .csv.gz or .parquet.
        out: Cohort folder to write.
        credentialed: Whether a data use agreement binds the rows; the flag stays with the cohort.
        config: Inclusion rules and resources.
        assembly: Clock, alignment, splits and reward.
    """
    print_cohort(build_mimic(mimic_dir, out, config, assembly, credentialed=credentialed), out)


@app.command(name="clif")
def clif(
    clif_dir: Path,
    out: Path,
    timezone: str = "UTC",
    credentialed: bool = True,
    config: Annotated[MimicConfig, OmitArgPrefixes] = MimicConfig(),  # noqa: B008
    assembly: Annotated[AssemblyConfig, OmitArgPrefixes] = AssemblyConfig(),  # noqa: B008
) -> None:
    """Builds Sepsis-3 trajectories from a CLIF 2.1 folder (Common Longitudinal ICU data Format).

    Args:
        clif_dir: Folder with clif_<table>.parquet files.
        out: Cohort folder to write.
        timezone: IANA name of the hospital's time zone; decides on which date somebody died.
        credentialed: Whether a data use agreement binds the rows; the flag stays with the cohort.
        config: Inclusion rules and resources.
        assembly: Clock, alignment, splits and reward.
    """
    cohort = build_clif(
        clif_dir, out, config, assembly, timezone=timezone, credentialed=credentialed
    )
    print_cohort(cohort, out)


@app.command(name="synthetic")
def synthetic(
    out: Path,
    patients: int = 500,
    seed: int = 0,
    randomised_share: float = 0.0,
    assembly: Annotated[AssemblyConfig, OmitArgPrefixes] = AssemblyConfig(),  # noqa: B008
) -> None:
    """Builds trajectories of made-up patients (provisional generator, no clinical validity).

    Writes the patients as MIMIC-IV tables first, then reads those as real ones are read.

    Args:
        out: Cohort folder to write; the tables go to its ``tables`` folder.
        patients: How many.
        seed: Of the generator.
        randomised_share: Share of stays whose doses are drawn at random every 4 h.
        assembly: Clock, alignment, splits and reward.
    """
    print_cohort(build_provisional(out, patients, seed, assembly, randomised_share), out)


@app.command(name="describe")
def describe_cohort(cohort: Path, out: Path | None = None) -> None:
    """Describes a cohort in tables: stays, mortality, actions, features, repairs.

    Args:
        cohort: Folder written by ``sepsis-gym cohort``.
        out: Folder for describe.html and flow.svg; neither is written if not given.
    """
    description = describe(Trajectories.load(cohort))
    if out is not None:
        write_description(description, out)
    console = Console()
    console.print(Text(to_text(description, width=console.width)), end="", soft_wrap=True)
    if out is not None:
        console.print(f"written to {out}", soft_wrap=True)


def build_provisional(
    out: Path,
    patients: int,
    seed: int,
    assembly: AssemblyConfig,
    randomised_share: float = 0.0,
) -> Trajectories:
    """Writes provisional tables and builds their cohort."""
    write_provisional_tables(
        out / "tables", n_patients=patients, seed=seed, randomised_share=randomised_share
    )
    source = f"{PROVISIONAL_SOURCE}, {patients} patients, seed {seed}"
    if randomised_share:
        source += f", {randomised_share:.0%} randomised"
    return build_mimic(
        out / "tables", out, MimicConfig(), assembly, credentialed=False, source=source
    )


def print_cohort(trajectories: Trajectories, out: Path) -> None:
    """Prints the cohort flow and what each split holds."""
    console = Console()
    flow = Table("rule", "stays left", title="Cohort flow")
    for rule, left in trajectories.manifest.flow:
        flow.add_row(rule, f"{left}")
    console.print(flow)
    table = Table("split", "stays", "decisions", "90-day mortality", title="Trajectories")
    stays = trajectories.stays
    for split in SPLITS:
        mine = stays.split == split
        mortality = f"{stays.died_90d[mine].mean():.1%}" if mine.any() else "-"
        decisions = f"{trajectories.n_decisions[mine].sum()}"
        table.add_row(split, f"{mine.sum()}", decisions, mortality)
    console.print(table)
    console.print(f"written to {out}", soft_wrap=True)
