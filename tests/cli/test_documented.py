"""The options of each command, in its help and in the docs: the same ones, with the same defaults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest

from trioresil.cli import _commands

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
COMMANDS = sorted(_commands.COMMANDS)
WORDS = {"no", "off", "none", "never", "unchecked", "no limit", "none is slow", "the system's authorities"}


def options_of(name: str) -> dict[str, Any]:
    command = _commands.trioresil.get_command(click.Context(_commands.trioresil), name)
    assert command is not None
    return {max(each.opts, key=len): each for each in command.params if isinstance(each, click.Option)}


def rows_of(name: str) -> dict[str, tuple[str, str]]:
    """Return the first and the last cell of each row about options, by the long name of the option."""
    found = {}
    for line in (FOLDER / f"cli-{name}.md").read_text(encoding="utf-8").splitlines():
        if named := re.match(r"\| (?:`-\w`, )?`(--[a-z-]+)", line):
            cells = line.strip("| ").split(" | ")
            assert named[1] not in found
            found[named[1]] = (cells[0], cells[-1])
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_the_docs_have_each_option_and_no_other(name: str) -> None:
    assert set(rows_of(name)) == set(options_of(name))


@pytest.mark.parametrize("name", COMMANDS)
def test_short_names_are_those_of_the_help(name: str) -> None:
    rows = rows_of(name)
    for long, option in options_of(name).items():
        assert set(re.findall(r"`(-\w)`", rows[long][0])) == {each for each in option.opts if len(each) == 2}


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_are_those_of_the_program(name: str) -> None:
    rows = rows_of(name)
    shown = {long: option for long, option in options_of(name).items() if option.show_default}
    for long, option in shown.items():
        assert float(rows[long][1]) == option.default
    for long in options_of(name).keys() - shown.keys():
        documented = rows[long][1].replace("`", "").removesuffix(" if that is less").replace(", or", ",")
        told = re.search(r"\[default: (.*?)\]", options_of(name)[long].help or "")
        if told is not None:
            assert told[1].removesuffix(" if less").replace(", or", ",") == documented
        else:
            assert documented in WORDS or long == "--output"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_range_in_the_help_is_one_that_somebody_can_read(name: str) -> None:
    command = _commands.trioresil.get_command(click.Context(_commands.trioresil), name)
    assert command is not None
    told = command.get_help(click.Context(command, info_name=name))
    assert "inf]" not in told
    assert "RANGE" not in told
