"""The public face re-exports and does nothing else; its exports are documented and cheap to import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import trioresil
from tests._exports import name_violations, public_names, wrong_statements

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
NOT_IMPORTED = ["rich", "click", "starlette", "hypercorn", "httpx", "trioresil.testing", "trioresil.cli"]


def test_the_face_only_re_exports() -> None:
    source = (ROOT / "trioresil" / "__init__.py").read_text(encoding="utf-8")
    assert wrong_statements(source) == []


def test_every_public_name_has_a_docstring_and_is_at_home_in_the_package() -> None:
    assert name_violations(public_names(vars(trioresil)), "trioresil") == []


def test_something_is_exported() -> None:
    assert {"Retry", "Timeout", "Pipeline", "TrioresilError"} <= public_names(vars(trioresil)).keys()


def test_every_public_name_is_in_the_reference() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in sorted(REFERENCE.glob("*.md")))
    words = set(re.findall(r"\w+", pages))
    assert [name for name in public_names(vars(trioresil)) if name not in words] == []


def test_importing_the_package_imports_no_edge() -> None:
    code = f"import sys, trioresil; print([name for name in {NOT_IMPORTED!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.strip() == "[]"


# --- the checks themselves -------------------------------------------------------------------------------------------

LAST = "_checks.fix_module_names(__name__, globals())"


@pytest.mark.parametrize(
    "source",
    [
        f'"""Doc."""\nfrom . import _checks as _checks\nfrom ._errors import E as E\n{LAST}\n',
        f"from . import _checks\nfrom ._policies.retry import A as A, B as B\n{LAST}",
        f'from . import _checks\n__version__ = "1"\n{LAST}',
    ],
)
def test_a_face_of_re_exports_passes(source: str) -> None:
    assert wrong_statements(source) == []


@pytest.mark.parametrize(
    "statement",
    [
        "import trio",
        "from trio import run as run",
        "from ._errors import E",
        "from ._errors import E as F",
        "from ._errors import _e as _e",
        "from ._errors import *",
        "from . import _errors",
        "default = 5",
        "def helper(): ...",
        "if True:\n    from ._errors import E as E",
    ],
)
def test_anything_else_in_a_face_is_caught(statement: str) -> None:
    [violation] = wrong_statements(f'"""Doc."""\n{statement}\n{LAST}')
    assert violation.startswith("line 2: ")


@pytest.mark.parametrize("source", ["", "from ._errors import E as E", f"{LAST}\nfrom ._errors import E as E"])
def test_a_face_that_does_not_fix_the_names_last_is_caught(source: str) -> None:
    assert wrong_statements(source) == [f"the last statement must be {LAST}"]


def test_a_name_without_docstring_or_home_is_caught() -> None:
    class Documented:
        """Doc."""

    class Heir(Documented):
        pass

    def function() -> None: ...

    Documented.__module__ = Heir.__module__ = "somewhere"
    function.__module__ = "elsewhere"
    names = {"Documented": Documented, "Heir": Heir, "function": function, "CONSTANT": 5}
    assert name_violations(names, "somewhere") == [
        "Heir has no docstring",
        "function has no docstring",
        "function says that it lives in elsewhere",
    ]


def test_modules_and_private_names_are_not_public() -> None:
    assert public_names({"_x": 1, "__doc__": "", "sys": sys, "Retry": 2}) == {"Retry": 2}
