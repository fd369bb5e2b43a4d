"""`stagecue`: one entry point; each command is imported only when it is called, so that `--help` is quick."""

from __future__ import annotations

import gc
import importlib
import sys
from typing import Final

import click

__all__ = ["COMMANDS", "cli", "main"]

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "up": ("stagecue.commands.up:up", "Run the whole system in one process, data in a directory."),
    "demo": ("stagecue.commands.demo:demo", "Play one compressed night with simulated devices and judge it."),
    "event": ("stagecue.commands.event:event", "Set up, watch, shift, cue and cancel live events."),
    "producer": ("stagecue.commands.services:producer", "Run the message producer alone."),
    "router": ("stagecue.commands.services:router", "Run the message router alone."),
    "push": ("stagecue.commands.services:push", "Run one push node alone."),
    "dgs": ("stagecue.commands.services:dgs", "Run the GraphQL prefetch service alone."),
    "cluster": ("stagecue.commands.cluster:cluster", "Run everything on Kafka, Redis and PostgreSQL on this machine."),
    "materialise": ("stagecue.commands.materialise:materialise", "Make many profiles' picks for an event ahead of it."),
    "device": ("stagecue.commands.device:device", "One device in a terminal: what it holds and shows."),
    "bench": ("stagecue.commands.bench:bench", "Measure the promised figures."),
    "report": ("stagecue.commands.report:report", "Show what a run left behind, or two runs side by side."),
    "gameday": ("stagecue.commands.gameday:gameday", "Rehearse the night: scenarios with a verdict and a report."),
    "keys": ("stagecue.commands.keys:keys", "List, rotate and retire the keys of tokens and links."),
    "settings": ("stagecue.commands.settings:settings", "List every setting: variable, default, meaning."),
}
"""Command -> (where it lives, its line in `--help`); the line stands here so that help imports nothing."""
_GC_THRESHOLDS: Final = (50_000, 20, 20)
"""Start-up makes half a million objects, and nearly all stay: by default every 700 are walked, an eighth of its
time."""


class LazyGroup(click.Group):
    """A group that knows its commands by name and loads one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module_name, _, attribute = COMMANDS[name][0].partition(":")
        try:
            command = getattr(importlib.import_module(module_name), attribute)
        except ModuleNotFoundError as exc:
            if (exc.name or "").split(".")[0] == "stagecue":
                raise
            raise click.ClickException(
                f"`stagecue {name}` needs the package {exc.name!r}, which is not installed here. "
                "Install all of it with `pip install 'stagecue[all]'`, or see the extras in pyproject.toml."
            ) from exc
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}; there are: {', '.join(COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExamples:\n"
    "  stagecue demo                       a night in under a minute, judged device by device\n"
    "  stagecue up --data-dir ./night      the whole system on this machine\n"
    "  stagecue cluster up                 the same on Kafka, Redis and PostgreSQL, a process each\n"
    "  stagecue event list                 what is planned\n"
    "  stagecue bench dispatch --json      due time to last device, hop by hop\n",
)
@click.version_option(package_name="stagecue", prog_name="stagecue")
def cli() -> None:
    """Live-event stages reach every device that prefetched them: one small broadcast, no request at the moment."""


def main() -> None:
    """The console script."""
    gc.set_threshold(*_GC_THRESHOLDS)
    cli.main(args=sys.argv[1:], prog_name="stagecue")


if __name__ == "__main__":
    main()
