"""The files around the package: the commands a stranger runs, what lies at top level, and one version number."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests._docs import shell_blocks

ROOT = Path(__file__).parent.parent
DEMO = "python3 -m venv .venv && .venv/bin/pip install -e '.[cli]' && .venv/bin/trioresil demo"
TESTS = "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest"
TOP_LEVEL = {"LICENSE", "README.md", "docs", "examples", "pyproject.toml", "tests", "trioresil"}
RUN = ROOT / ".ci" / "run"


def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def test_the_readme_opens_with_the_demo_and_the_tests() -> None:
    blocks = "".join(shell_blocks((ROOT / "README.md").read_text(encoding="utf-8")))
    assert blocks.splitlines()[:2] == [DEMO, TESTS]


def test_ci_runs_the_tests_as_the_readme_does() -> None:
    assert RUN.read_text(encoding="utf-8").splitlines().count(TESTS) == 1


def test_ci_is_an_executable_and_valid_script() -> None:
    assert os.access(RUN, os.X_OK)
    assert subprocess.run(["bash", "-n", str(RUN)], check=False).returncode == 0


def test_ci_stops_at_the_first_failure() -> None:
    assert "set -euo pipefail" in RUN.read_text(encoding="utf-8").splitlines()


def test_the_top_level_holds_only_what_belongs_there() -> None:
    # The files may belong to somebody else than the user who runs the tests: git refuses that unless it is told.
    command = ["git", "-c", "safe.directory=*", "ls-files"]
    listed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.splitlines()
    top = {path.partition("/")[0] for path in listed}
    assert {name for name in top if not name.startswith(".")} - TOP_LEVEL == set()
    assert "pyproject.toml" in top


def test_the_version_is_said_once() -> None:
    version = project()["project"]["version"]
    says_it = re.compile(rf"__version__\s*=\s*[\"']|[\"']{re.escape(version)}[\"']")
    sources = [*(ROOT / "trioresil").rglob("*.py"), ROOT / "docs" / "conf.py"]
    assert [str(path) for path in sources if says_it.search(path.read_text(encoding="utf-8"))] == []


def test_what_the_tests_need_includes_all_that_a_user_may_install() -> None:
    extras = project()["project"]["optional-dependencies"]
    [own] = [each for each in extras["test"] if each.startswith("trioresil[")]
    included = own.removeprefix("trioresil[").removesuffix("]").split(",")
    assert sorted(included) == sorted(extras.keys() - {"docs", "test", "bench"})


@pytest.mark.parametrize("extra", ["", "cli", "test", "bench", "docs"])
def test_dependencies_have_a_lower_bound_and_no_upper_one(extra: str) -> None:
    metadata = project()["project"]
    wanted = metadata["optional-dependencies"][extra] if extra else metadata["dependencies"]
    others = [name for name in wanted if not name.startswith("trioresil[")]
    assert others
    assert [name for name in others if not re.fullmatch(r"[a-z0-9-]+(\[[a-z,]+\])?>=[0-9.]+", name)] == []


def test_every_tool_is_configured_in_one_file() -> None:
    tools = project()["tool"]
    assert {"ruff", "mypy", "pyright", "pytest", "coverage", "tox", "towncrier"} <= tools.keys()
    assert tools["pytest"]["ini_options"]["filterwarnings"][0] == "error"


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "trioresil" / "py.typed").is_file()
