"""`trioresil demo --serve`: the run in the live page, while it lasts."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from trioresil.cli import _commands

ROOT = Path(__file__).parent.parent.parent
PROGRAM = [sys.executable, "-W", "error", "-c", "from trioresil.cli import main; main()"]
PATIENCE = 60
TOKEN = "a-token-of-some-length"


def demo(*arguments: str) -> Result:
    return CliRunner().invoke(_commands.trioresil, ["demo", "--seconds", "1", *arguments])


def get(url: str, token: str | None = None) -> Any:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as response:
        return json.loads(response.read())


def names(state: Any) -> set[str]:
    return set(re.findall(r'"name": "([^"]+)"', json.dumps(state)))


def served(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, "demo", "--seconds", "60", "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != "TRIORESIL_TOKEN"},
    )


@pytest.mark.slow
def test_the_live_page_has_both_sides_and_every_policy_and_ends_with_the_run() -> None:
    with served("--serve", "127.0.0.1:0") as process:
        assert process.stderr is not None
        told = process.stderr.readline()
        found = re.fullmatch(r"Live page until the end: (http://127\.0\.0\.1:\d+/)\n", told)
        assert found is not None
        wanted = {"bare httpx", "items", "total", "attempt", "retry"}
        limit = time.monotonic() + 20
        while not wanted <= names(state := get(f"{found[1]}api/state")):
            assert time.monotonic() < limit
            time.sleep(0.2)
        assert "trioresil demo" in json.dumps(state)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert json.loads(output)["bare"]["requests"] > 0
    with pytest.raises(urllib.error.URLError):
        get(f"{found[1]}api/state")


@pytest.mark.slow
def test_a_token_opens_it_to_others_and_nobody_else() -> None:
    with served("--serve", "0.0.0.0:0", "--token", TOKEN) as process:
        assert process.stderr is not None
        told = process.stderr.readline()
        url = told.split()[-1]
        assert TOKEN not in told
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            get(f"{url}api/state")
        refused.value.close()
        assert get(f"{url}api/state", TOKEN)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 130


@pytest.mark.slow
def test_an_address_in_use_is_told_in_a_line_and_nothing_runs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = demo("--serve", f"127.0.0.1:{port}", "--report", str(tmp_path / "out.html"))
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == f"Error: --serve 127.0.0.1:{port}: Address already in use\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_by_itself_serve_means_port_8080_of_this_machine() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8080))
            taken.listen()
        except OSError:
            pass  # somebody else has it: as good
        refused = demo("--serve")
    assert refused.exit_code == 2
    assert refused.stderr == "Error: --serve 127.0.0.1:8080: Address already in use\n"


def test_others_than_this_machine_need_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIORESIL_TOKEN", raising=False)
    refused = demo("--serve", "0.0.0.0:0")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr.count("\n") == 1
    assert "token" in refused.stderr
    assert refused.stderr.endswith("give it with --token or in TRIORESIL_TOKEN\n")


def test_a_host_that_does_not_exist_is_told_in_a_line() -> None:
    refused = demo("--serve", "nowhere.invalid:80", "--token", TOKEN)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr.startswith("Error: --serve nowhere.invalid:80: ")
    assert "Unknown error" not in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("address", ["host:port", "1.2.3.4:70000", "::1:80", "http://localhost:80"])
def test_what_is_no_address_is_refused(address: str) -> None:
    refused = demo("--serve", address)
    assert refused.exit_code == 2
    assert f"'{address}' is not like 127.0.0.1:8080" in refused.stderr
