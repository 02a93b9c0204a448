"""Help, the way the commands are found, and the completion of a shell's line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from tests.cli._watching import ROOT, run
from trioresil.cli import _commands


def test_the_help_lists_each_command_with_a_line() -> None:
    told = CliRunner().invoke(_commands.trioresil, ["--help"])
    assert told.exit_code == 0
    listed = told.stdout.partition("Commands:\n")[2].splitlines()
    assert {line.split()[0] for line in listed if line.startswith("  ") and line[2] != " "} == set(_commands.COMMANDS)
    assert "Check again and again whether servers are healthy" in told.stdout
    assert "..." not in told.stdout.partition("Commands:\n")[2]  # the mark of a line that was cut off
    assert max(map(len, told.stdout.splitlines())) <= 80


def test_the_help_of_watch_tells_of_urls_ends_and_exit_codes() -> None:
    told = CliRunner().invoke(_commands.trioresil, ["watch", "--help"])
    text = " ".join(told.stdout.split())
    assert told.exit_code == 0
    for part in (
        "tls://host[:port] (a valid certificate, and for how many days)",
        "Exit codes: 0 healthy, 1 not healthy, 2 wrong use, 130 after Ctrl-C.",
        "trioresil watch --until-healthy --total-timeout 60 tcp://localhost:5432",
        "TRIORESIL_TOKEN",
        "[[target]]",
    ):
        assert part in text
    assert max(map(len, told.stdout.splitlines())) <= 80


def test_a_command_that_is_not_there_is_refused() -> None:
    refused = CliRunner().invoke(_commands.trioresil, ["wacht"])
    assert refused.exit_code == 2
    assert "No such command 'wacht'" in refused.stderr


@pytest.mark.slow
def test_watch_does_not_import_the_web_server() -> None:
    code = (
        "import sys; from trioresil.cli import _watch_command; "
        "assert not {'starlette', 'hypercorn', 'prometheus_client', 'trioresil.dashboard'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_watch_says_which_one_in_a_line(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = ['watch', 'dns://a']; "
        "from trioresil.cli import main; main()"
    )
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        f"the command line needs {missing}, which is in the extra `cli`: pip install 'trioresil[cli]'\n"
    )


@pytest.mark.slow
def test_without_a_web_server_serve_says_what_to_install_in_a_line() -> None:
    code = (
        "import sys; sys.modules['starlette'] = None; sys.argv[1:] = ['watch', '--serve', '0', 'dns://a']; "
        "from trioresil.cli import main; main()"
    )
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    [line] = refused.stderr.splitlines()
    assert "pip install 'trioresil[cli]'" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "part"),
    [
        ("bash", "complete -o nosort -F"),
        ("zsh", "#compdef trioresil"),
        ("fish", "complete --no-files --command trioresil"),
    ],
)
def test_each_shell_gets_its_script(shell: str, part: str, tmp_path: Path) -> None:
    told = run(_TRIORESIL_COMPLETE=f"{shell}_source")
    assert (told.returncode, told.stderr) == (0, "")
    assert part in told.stdout
    assert "_TRIORESIL_COMPLETE" in told.stdout
    if shell == "bash":
        script = tmp_path / "script"
        script.write_text(told.stdout, encoding="utf-8")
        assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("wa", {"plain,watch"}),
        ("watch --until", {"plain,--until-healthy"}),
        ("watch --targ", {"plain,--targets"}),
        ("watch --targets ", {"file,"}),
        ("fetch --input ", {"file,"}),
        ("fetch --output ", {"file,"}),
        ("fetch --checksums ", {"file,"}),
        ("fetch --dir ", {"dir,"}),
        ("demo --rep", {"plain,--report"}),
    ],
)
def test_words_are_completed(line: str, offered: set[str]) -> None:
    *words, begun = line.split(" ")
    completion = BashComplete(_commands.trioresil, {}, "trioresil", "_TRIORESIL_COMPLETE")
    assert {completion.format_completion(each) for each in completion.get_completions(words, begun)} == offered


@pytest.mark.slow
def test_the_program_itself_completes_words() -> None:
    words = {"COMP_WORDS": "trioresil watch --until", "COMP_CWORD": "2"}
    told = run(_TRIORESIL_COMPLETE="bash_complete", **words)
    assert (told.stdout, told.stderr) == ("plain,--until-healthy\n", "")
