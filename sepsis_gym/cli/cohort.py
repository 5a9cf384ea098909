"""``sepsis-gym cohort``: trajectories from MIMIC-IV, CLIF or simulated patients."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import OmitArgPrefixes
from tyro.extras import SubcommandApp

from sepsis_gym.cohort.assemble import AssemblyConfig, assemble
from sepsis_gym.cohort.clif import build_clif
from sepsis_gym.cohort.describe import describe
from sepsis_gym.cohort.describe_render import to_text, write_description
from sepsis_gym.cohort.mimic import MimicConfig, build_mimic
from sepsis_gym.errors import ConfigError
from sepsis_gym.files import check_target
from sepsis_gym.trajectories import SPLITS, Trajectories
from world_models.physiology import ACTION_HOURS, ClinicianConfig

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
    patients: int = 1000,
    seed: int = 0,
    tables: bool = True,
    clinician: Annotated[ClinicianConfig, OmitArgPrefixes] = ClinicianConfig(),  # noqa: B008
    assembly: Annotated[AssemblyConfig, OmitArgPrefixes] = AssemblyConfig(),  # noqa: B008
) -> None:
    """Builds trajectories of simulated patients, whose response to every dose is known.

    The patients are written as MIMIC-IV tables and read as real ones are; what the bedside does not
    show lies beside the tables. If clinicians decide once per step, their true action probabilities
    are written to propensities.parquet.

    Args:
        out: Cohort folder to write; the tables go to its ``tables`` folder.
        patients: How many.
        seed: Of everything.
        tables: Whether to write tables; without them the same values go straight to trajectories.
        clinician: How the patients are dosed.
        assembly: Clock, alignment, splits and reward.
    """
    print_cohort(build_synthetic(out, patients, seed, assembly, clinician, tables=tables), out)


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


def build_synthetic(
    out: Path,
    patients: int,
    seed: int,
    assembly: AssemblyConfig,
    clinician: ClinicianConfig,
    *,
    tables: bool = True,
) -> Trajectories:
    """Simulates patients and builds their cohort, by way of tables or straight."""
    from world_models.physiology.records.blocks import simulated
    from world_models.physiology.records.propensities import write_propensities
    from world_models.physiology.records.tables import write_tables
    from world_models.physiology.records.trajectories import raw_cohort

    check_target(out)
    source = f"sepsis-gym synthetic patients, {patients}, seed {seed}"
    build = {"synthetic": {"patients": patients, "seed": seed, "clinician": asdict(clinician)}}
    if tables:
        write_tables(out / "tables", n_patients=patients, seed=seed, clinician=clinician)
        cohort = build_mimic(
            out / "tables", out, MimicConfig(), assembly, credentialed=False, source=source,
            beside=build,
        )  # fmt: skip
    else:
        if assembly.alignment != "causal":
            raise ConfigError("--no-tables is for the causal alignment; leave it out")
        courses = simulated(patients, seed, clinician)
        raw = raw_cohort(courses, step_hours=assembly.step_hours, seed=seed)
        cohort = assemble(raw, assembly, source=source, credentialed=False, build=build)
        cohort.save(out)
    if clinician.decision_interval_hours == assembly.step_hours == ACTION_HOURS:
        write_propensities(out / "propensities.parquet", cohort, patients, seed, clinician)
    return cohort


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
