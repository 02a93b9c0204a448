"""Imports go down the ranks, the kernel is pure, and every file has a rank. The checker is tested on planted trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests._layering import check_tree, rank_of

PACKAGE = Path(__file__).parent.parent / "trioresil"
PLANTED = [
    "init",
    "abc",
    "httpx",
    "redis",
    "_checks",
    "_policies__init",
    "_policies__retry",
    "_services__health",
    "_services___tasks",
    "testing__init",
    "cli__init",
]


def plant(tmp_path: Path, **files: str) -> list[str]:
    """Write a package named trioresil and check it; in the keys "__" stands for "/" and "init" for "__init__"."""
    root = tmp_path / "trioresil"
    for key, source in files.items():
        path = root / f"{key.replace('__', '/').replace('init', '__init__')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return check_tree(root)


def test_the_package_keeps_its_layers() -> None:
    assert check_tree(PACKAGE) == []


def test_the_package_was_read() -> None:
    assert {"_errors.py", "__init__.py"} <= {path.name for path in PACKAGE.iterdir()}


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("", 10),
        ("_errors", 0),
        ("_kernel", 1),
        ("_kernel.circuit", 1),
        ("_links", 2),
        ("abc", 3),
        ("_retry_budget", 4),
        ("_policies.retry", 5),
        ("_policies.keyed", 6),
        ("_services._tasks", 7),
        ("_services.pool", 8),
        ("testing.sweep", 9),
        ("httpx", 10),
        ("cli.demo.service", 11),
        ("helpers", None),
        ("_policiesx", None),
    ],
)
def test_a_rank_follows_from_the_place(name: str, rank: int | None) -> None:
    assert rank_of(name) == rank


def test_a_tree_that_keeps_the_rules_passes(tmp_path: Path) -> None:
    violations = plant(
        tmp_path,
        init="from ._policies.retry import Retry as Retry",
        _errors="import trio",
        _kernel__init='"""Pure."""',
        _kernel__backoff="import math\nfrom collections.abc import Iterator\nfrom .._errors import E",
        _kernel__circuit="from .backoff import Backoff\nfrom ._shapes import Shape\nimport attrs",
        _kernel___shapes="from trioresil import _errors",
        _policies__retry="import trio, random\nfrom .. import _errors\nfrom .._kernel.backoff import Backoff",
        _policies__pipeline="from . import retry\nfrom .retry import Retry",
        testing__init="from .sweep import sweep",
        testing__sweep="import trioresil._policies.retry",
        cli__init="import trioresil\nfrom trioresil import testing",
    )
    assert violations == []


@pytest.mark.parametrize(
    ("importer", "statement", "target"),
    [
        pytest.param("_errors", "from ._checks import number", "trioresil._checks", id="same rank at the bottom"),
        pytest.param("_errors", "from ._policies.retry import Retry", "trioresil._policies.retry", id="upwards"),
        pytest.param("_policies__timeout", "from .retry import Retry", "trioresil._policies.retry", id="sibling"),
        pytest.param("_policies__timeout", "from . import retry", "trioresil._policies.retry", id="sibling by module"),
        pytest.param(
            "_policies__timeout", "import trioresil._policies.retry", "trioresil._policies.retry", id="absolute"
        ),
        pytest.param("_policies__init", "from .retry import Retry", "trioresil._policies.retry", id="a room's face"),
        pytest.param("_policies__timeout", "from .. import Retry", "trioresil", id="the package's face"),
        pytest.param("_policies__timeout", "from trioresil import Retry", "trioresil", id="the face, absolute"),
        pytest.param("_policies__timeout", "from ..abc import *\nfrom .. import *", "trioresil", id="star"),
        pytest.param(
            "_services__pool",
            "from ._tasks import x\nfrom .health import y",
            "trioresil._services.health",
            id="service",
        ),
        pytest.param("_services___tasks", "from .health import y", "trioresil._services.health", id="up in a room"),
        pytest.param("telemetry__log", "from ..testing import Recorder", "trioresil.testing", id="another edge"),
        pytest.param("httpx", "from .redis import x", "trioresil.redis", id="another face"),
        pytest.param("init", "from .cli import main", "trioresil.cli", id="the command line"),
    ],
)
def test_a_wrong_import_is_caught(tmp_path: Path, importer: str, statement: str, target: str) -> None:
    files = dict.fromkeys(PLANTED, '"""Planted."""')
    violations = plant(tmp_path, **{**files, importer: statement})
    assert len(violations) == 1
    assert f"imports {target}, rank" in violations[0]


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("import typing\nif typing.TYPE_CHECKING:\n    from .retry import R", id="for types only"),
        pytest.param("def f():\n    from .retry import R", id="in a function"),
        pytest.param("try:\n    from .retry import R\nexcept ImportError:\n    pass", id="in a try"),
        pytest.param("import importlib\nimportlib.import_module('trioresil._policies.retry')", id="by name"),
        pytest.param("import importlib\nimportlib.import_module('.retry', __package__)", id="by relative name"),
    ],
)
def test_an_import_counts_wherever_it_stands(tmp_path: Path, source: str) -> None:
    violations = plant(tmp_path, _policies__init="", _policies__retry="", _policies__timeout=source)
    line = source.count("\n", 0, source.index("retry")) + 1
    assert violations == [f"trioresil/_policies/timeout.py:{line}: rank 5 imports trioresil._policies.retry, rank 5"]


@pytest.mark.parametrize("module", ["trio", "time", "random", "logging", "contextvars", "datetime", "os", "httpx"])
def test_an_impure_import_in_the_kernel_is_caught(tmp_path: Path, module: str) -> None:
    violations = plant(tmp_path, _kernel__circuit=f"import math\nimport {module}")
    assert violations == [f"trioresil/_kernel/circuit.py:2: the kernel is pure, and {module} is not on its list"]


def test_the_kernel_may_name_the_type_of_chance_but_not_use_it(tmp_path: Path) -> None:
    allowed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from random import Random"
    assert plant(tmp_path, _kernel__backoff=allowed) == []
    [violation] = plant(tmp_path, _kernel__backoff=f"{allowed}\nelse:\n    from random import Random")
    assert "and random is not on its list" in violation


@pytest.mark.parametrize("module", ["time", "trio"])
def test_the_kernel_may_not_even_name_a_type_of_other_modules(tmp_path: Path, module: str) -> None:
    source = f"import typing\nif typing.TYPE_CHECKING:\n    import {module}"
    [violation] = plant(tmp_path, _kernel__backoff=source)
    assert f"and {module} is not on its list" in violation


@pytest.mark.parametrize("source", ["async def f(): 0", "async def f(): await g()", "async def f():\n async with g: 0"])
def test_a_kernel_that_waits_is_caught(tmp_path: Path, source: str) -> None:
    violations = plant(tmp_path, _kernel__circuit=source)
    assert violations
    assert all("the kernel never waits" in violation for violation in violations)


def test_a_kernel_that_prints_is_caught(tmp_path: Path) -> None:
    violations = plant(tmp_path, _kernel__circuit="print('tripped')")
    assert violations == ["trioresil/_kernel/circuit.py:1: the kernel is pure, and print() is not"]


@pytest.mark.parametrize("name", ["helpers", "_helpers", "utils__text", "_policy__retry"])
def test_a_file_without_a_rank_is_caught(tmp_path: Path, name: str) -> None:
    [violation] = plant(tmp_path, **{name: ""})
    assert violation.startswith(f"trioresil/{name.replace('__', '/')}.py:1: has no rank")


@pytest.mark.parametrize("room", ["_kernel", "testing", "cli", "_http", "_shared", "_web", "telemetry"])
def test_a_circle_inside_a_room_is_caught(tmp_path: Path, room: str) -> None:
    files = {
        f"{room}__a": "from .b import x",
        f"{room}__b": "from . import c",
        f"{room}__c": "def f():\n from .a import y",
    }
    [violation] = plant(tmp_path, **files)
    assert f"trioresil/{room}: modules import each other in a circle" in violation


def test_a_room_that_imports_its_own_face_from_inside_is_a_circle(tmp_path: Path) -> None:
    [violation] = plant(tmp_path, testing__init="from .sweep import x", testing__sweep="from . import Recorder")
    assert "circle" in violation
