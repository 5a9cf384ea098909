"""``sepsis-gym cohort``: trajectories from MIMIC-IV, CLIF or simulated patients."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from sepsis_gym.files import check_target, whole_folder
from sepsis_gym.trajectories import SPLITS, Split, Trajectories
from world_models.physiology import ACTION_HOURS, ClinicianConfig

if TYPE_CHECKING:
    from world_models.physiology.validity.checks import Check

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
    scales_of: str | None = None,
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
        scales_of: Name or folder of a world model, such as ``default``, whose scales and dose
            levels the cohort takes over, so that agents of the cohort can use it; for --no-tables.
        clinician: How the patients are dosed.
        assembly: Clock, alignment, splits and reward.
    """
    cohort = build_synthetic(
        out, patients, seed, assembly, clinician, tables=tables, scales_of=scales_of
    )
    print_cohort(cohort, out)


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


@app.command(name="minari")
def minari(
    cohort: Path,
    name: str,
    split: Split | None = None,
    agent: str | None = None,
    episodes: int = 1000,
    seed: int = 0,
    world_model: str = "default",
) -> None:
    """Writes logged stays, or episodes that an agent plays, as a Minari dataset.

    Args:
        cohort: Folder written by ``sepsis-gym cohort``.
        name: Of the dataset, such as sepsis/synthetic-v0.
        split: Which of the logged stays; all if not given.
        agent: Agent folder, or name of an agent that needs no training, that plays in SepsisWM-v0.
        episodes: How many it plays.
        seed: Of the environment it plays in.
        world_model: Name or folder of the world model it plays in, of the cohort's scales.
    """
    from agents import check_preprocessing
    from sepsis_gym.cli.evaluate import open_agents
    from sepsis_gym.minari_export import logged_episodes, played_episodes, write_minari
    from sepsis_gym.registration import make_sepsis_wm, resolve_stays

    stays = resolve_stays(cohort, split)
    told, algorithm = logged_episodes(stays), "clinicians"
    if agent is not None:
        [(algorithm, player)] = open_agents((agent,)).items()
        env = make_sepsis_wm(world_model)
        check_preprocessing(player, env.preprocessing)
        if env.preprocessing != stays.preprocessing:
            raise ConfigError(f"world model {world_model} has other scales than {cohort}")
        told = played_episodes(env, player, episodes, seed=seed)
    written = write_minari(told, name, stays.manifest, algorithm=algorithm)
    print(f"{written.total_episodes} episodes, {written.total_steps} steps: {name}")


@app.command(name="validate")
def validate_synthetic(
    patients: int = 4000,
    seed: int = 1,
    mimic_demo: Path | None = None,
    out: Path | None = None,
) -> None:
    """Runs the tests a reviewer would on the mechanistic patients, and lists what failed.

    Args:
        patients: Of each test, 200 or more.
        seed: The first of four.
        mimic_demo: Folder of the open MIMIC-IV demo (hosp/ and icu/) to compare with.
        out: Folder for validity.json and pictures (the ``figures`` extra); none is written if not
            given.
    """
    from world_models.physiology.validity import unfitted_seed, validate

    if out is not None:
        from world_models.physiology.validity.figures import write_figures

        check_target(out)
    seeds = tuple(range(seed, seed + 4))
    checks = validate(patients, seeds, mimic_demo)
    print_checks(checks)
    if out is not None:
        table = [asdict(check) for check in checks]
        content = {"patients": patients, "seeds": seeds, "checks": table}
        with whole_folder(out) as folder:
            (folder / "validity.json").write_text(json.dumps(content, indent=1))
            write_figures(folder, min(patients, 4000), unfitted_seed(seed))
        print(f"written to {out}")


def print_checks(checks: "Sequence[Check]") -> None:
    """Prints a validity table and how many passed."""
    table = Table("", "test", "target", "value", "", title="Validity of the mechanistic patients")
    verdicts = {True: "pass", False: "FAIL", None: "not run"}
    for check in checks:
        verdict = verdicts[check.passed]
        name = f"{check.name}\n({check.reason})" if check.reason else check.name
        cells = (f"{check.number}", name, check.target, check.value, verdict)
        table.add_row(*map(Text, cells), style="bold" if check.passed is False else "")
    console = Console()
    console.print(table)
    counts = [sum(check.passed is passed for check in checks) for passed in verdicts]
    console.print(f"{counts[0]} passed, {counts[1]} failed, {counts[2]} not run")
    console.print("Research software, never for patient care.")


def build_synthetic(
    out: Path,
    patients: int,
    seed: int,
    assembly: AssemblyConfig,
    clinician: ClinicianConfig,
    *,
    tables: bool = True,
    scales_of: str | None = None,
) -> Trajectories:
    """Simulates patients and builds their cohort, by way of tables or straight."""
    from world_models.checkpoint import load_preprocessing
    from world_models.physiology.records.blocks import simulated
    from world_models.physiology.records.propensities import write_propensities
    from world_models.physiology.records.tables import write_tables
    from world_models.physiology.records.trajectories import raw_cohort

    check_target(out)
    scales = None if scales_of is None else load_preprocessing(scales_of)
    if scales and tables:
        raise ConfigError("--scales-of is for cohorts without tables: add --no-tables")
    if scales and (scales.step_hours, scales.alignment) != (assembly.step_hours, "causal"):
        raise ConfigError(f"world model {scales_of!r} has steps of {scales.step_hours} h")
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
        cohort = assemble(
            raw, assembly, source=source, credentialed=False, build=build, preprocessing=scales
        )
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
