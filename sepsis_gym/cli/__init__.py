"""The ``sepsis-gym`` command; with ``registration`` the only code that knows the siblings."""

import sys
from collections.abc import Sequence

from tyro.extras import SubcommandApp

from sepsis_gym.errors import SepsisGymError

_DESCRIPTION = (
    "Sepsis treatment as a reinforcement-learning benchmark. "
    "Research software, never for patient care."
)


def build_app() -> SubcommandApp:
    """Collects the commands; each imports what it needs when it runs."""
    from sepsis_gym.cli import agent, benchmark, cohort, demo, evaluate, llm, report, world_model

    app = SubcommandApp()
    groups = {"cohort": cohort.app, "world-model": world_model.app, "agent": agent.app}
    groups |= {"llm": llm.app, "benchmark": benchmark.app}
    for name, group in groups.items():
        app.command(group, name=name)
    app.command(name="evaluate")(evaluate.evaluate)
    app.command(name="report")(report.report)
    app.command(name="demo")(demo.demo)
    return app


def main(args: Sequence[str] | None = None) -> None:
    """Runs one command; an expected error becomes one line on stderr and exit code 1."""
    try:
        build_app().cli(
            prog="sepsis-gym",
            description=_DESCRIPTION,
            args=args,
        )
    except (SepsisGymError, ImportError, OSError) as error:
        print(f"sepsis-gym: error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("sepsis-gym: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
