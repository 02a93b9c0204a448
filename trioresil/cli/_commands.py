"""`trioresil` itself: which commands there are. Each is imported when it is wanted, so that none waits for another's needs."""

from __future__ import annotations

import importlib
from typing import Final

import click

COMMANDS: Final = {  # the module that has it; in there it is called as it is called here
    "watch": "_watch_command",
    "fetch": "_fetch_command",
    "demo": "_demo_command",
}


class _Commands(click.Group):
    """Commands by name, imported at their first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[cmd_name]}", __package__)
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trioresil", prog_name="trioresil")
def trioresil() -> None:
    """The resilience layer for Trio, from the shell."""
