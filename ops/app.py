"""The commands of the command line, listed in three sections: staging photos, operating, money."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Final

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from ops.cli_common import EXIT_CODES
from ops.commands import batches, control, costs, erase, failures, health, image, manifests, quota, run, submit, up

SECTIONS: Final = {
    "Stage photos": ("run", "validate", "estimate", "up", "submit", "watch", "status", "results", "batches"),
    "Operate": (
        "health", "image", "dead-letters", "retry-failed", "replay", "pause", "resume", "cancel", "resend",
        "quota", "set-quota", "reconcile", "erase",
    ),
    "Money": ("estimate", "costs"),
}  # fmt: skip
HELP_NAMES: Final[dict[str, Any]] = {"help_option_names": ["-h", "--help"]}


MAX_HELP: Final = 300  # characters: a command's first sentence, whole


class Command(TyperCommand):
    """A command whose help shows arguments by their names: MANIFEST, not {MANIFEST} <path>."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for param in self.params:
            if isinstance(param, TyperArgument):
                vars(param)["display_type_rich"] = lambda ctx: None

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the arguments for the line `Usage:`, without typer's braces."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]


class Sections(TyperGroup):
    """Lists the commands in sections, and the exit codes below them."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands for --help; the formatter is click's."""
        for title, commands in SECTIONS.items():
            rows = [
                (name, command.get_short_help_str(MAX_HELP))
                for name in commands
                if (command := self.get_command(ctx, name)) is not None
            ]
            with formatter.section(title):
                formatter.write_dl(rows)
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"ruum-batch {version('ruum-batch')}")
        raise typer.Exit


app = typer.Typer(
    cls=Sections,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=HELP_NAMES,
    help="Virtually stage batches of photos of empty rooms.",
    epilog="Example: ruum-batch run samples/batch.json --out staged",
)


@app.callback()
def _root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


for _module in (run, manifests, submit, batches, health, image, control, failures, quota, costs, erase, up):
    _module.register(app)
for _group in (app, *(found.typer_instance for found in app.registered_groups)):
    for _command in _group.registered_commands if _group is not None else ():
        _command.cls = Command
        _command.context_settings = HELP_NAMES


@functools.cache
def command() -> Any:
    """Return the command line as click reads it. typer takes 0.1 s to make it, at each call."""
    return typer.main.get_command(app)
