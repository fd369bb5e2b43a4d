"""`stagecue gameday`: rehearsals, each a question with a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stagecue.commands.rehearse import rehearse

__all__ = ["gameday"]


class _Scenarios(click.Group):
    """Whatever is no command of the group is the name or the path of a scenario."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        found = super().get_command(ctx, name)
        if found is not None:
            return found
        return _scenario(name)


@click.group(
    cls=_Scenarios,
    subcommand_metavar="list | NAME [OPTIONS] | COMMAND ...",
    epilog="\b\nExamples:\n"
    "  stagecue gameday list\n"
    "  stagecue gameday reconnect-storm\n"
    "  stagecue gameday naive-vs-prefetch --devices 5000 --json | jq .verdict\n"
    "  stagecue gameday ./my-night.toml --output reports/tonight\n"
    "\b\nExit codes: 0 every bar held, 1 not, 2 it could not run.\n",
)
def gameday() -> None:
    """Rehearse the night: set up what a scenario needs, run it, tear it down, judge it and write a report.

    NAME is one of `stagecue gameday list`, or the path of a TOML file of your own (docs/gamedays.md).
    """


class _Run(click.Command):
    """Its help says what the scenario asks: read when somebody wants to know."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from loadtest.gameday.library import load_scenario
        from loadtest.gameday.running import promises_of
        from loadtest.gameday.scenario import ScenarioError

        assert self.name is not None
        try:
            scenario = load_scenario(self.name)
        except ScenarioError as exc:
            raise click.UsageError(str(exc), ctx) from exc
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(f"{scenario.title}: {scenario.question}")
            formatter.write_paragraph()
            formatter.write_text(f"{promises_of(scenario)}.")


def _scenario(name: str) -> click.Command:
    @click.command(name, cls=_Run)
    @click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
    @click.option(
        "--output", type=click.Path(file_okay=False, path_type=Path), help="Of the report. [reports/gameday/NAME-TIME]"
    )
    @click.option("--seed", type=int, default=1, show_default=True, help="Chooses moments and profiles.")
    @click.option("--devices", type=click.IntRange(1), help="Instead of the scenario's.")
    def run(as_json: bool, output: Path | None, seed: int, devices: int | None) -> None:
        from loadtest.gameday.running import GamedayOptions, run_gameday

        options = GamedayOptions(scenario=name, output=output, seed=seed, devices=devices)
        raise SystemExit(run_gameday(options, as_json=as_json))

    return run


@gameday.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def list_(**options: Any) -> None:
    """The scenarios that ship: what each asks, and the bars it is judged by."""
    from loadtest.gameday.running import list_scenarios

    raise SystemExit(list_scenarios(**options))


gameday.add_command(rehearse)
