"""Sphinx configuration. The pages must be readable offline: nothing is fetched when building or when reading."""

from __future__ import annotations

import builtins
import importlib
import logging
import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.pycode import ModuleAnalyzer

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # documents this checkout, installed or not

from docs.tabulate_benchmark import fill_in  # noqa: E402

project = "trioresil"
author = "the trioresil developers"
project_copyright = author
release = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
version = ".".join(release.split(".")[:2])

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "newsfragments"]
source_suffix = {".md": "markdown"}
templates_path: list[str] = []

myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

# A toctree takes every page of its folder, and a folder may have none yet. This warning has no type that
# suppress_warnings could name.
logging.getLogger("sphinx.sphinx.directives.other").addFilter(lambda record: "toctree glob" not in str(record.msg))

# --- docstrings -------------------------------------------------------------------------------------------------------
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_param = False  # "window (float, seconds, > 0)" is prose: as a :type: each word of it would become a link
napoleon_use_rtype = False
napoleon_custom_sections = [
    ("Cancellation", "notes_style"),
    ("Source", "notes_style"),
    ("Synopsis", "notes_style"),
    ("Attributes", "params_style"),  # prose as well
]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True  # `on=Exception`, not the repr of a class, which can't be read back
python_use_unqualified_type_names = True

# --- references -------------------------------------------------------------------------------------------------------
# Nothing is fetched, so names of other libraries can't be links. Names of our own must be: a wrong one is an error.
nitpicky = True
OTHERS = (
    "attr attrs collections contextlib contextvars datetime enum httpx httpx2 logging math os pathlib random ssl starlette trio "
    "types typing weakref"
)
nitpick_ignore_regex = [
    ("py:.*", rf"({'|'.join(OTHERS.split())})(\..*)?"),
    ("py:.*", "|".join(re.escape(name) for name in dir(builtins))),
    ("py:.*", r"(.*\.)?(I|P|R|T|Ts|V)(\.args|\.kwargs)?"),  # type variables in signatures
    ("py:.*", r".*\._.*"),  # modules that aren't public are not in the docs
    (
        "py:class",
        "EllipsisType|PerOrigin|Password|Restart|Scenario|State|StrPath|Strategy",
    ),  # aliases, spelled out in docstrings
    # the client library's errors, of which there are two
    ("py:exc", "(Connect|Pool|Read|Write)(Error|Timeout)|(Decoding|HTTPStatus|Proxy|RemoteProtocol|Transport)Error|…"),
]

# --- pages ------------------------------------------------------------------------------------------------------------
html_theme = "furo"
html_title = f"trioresil {release}"
html_show_sphinx = False
html_copy_source = False


# --- what autodoc can't know ------------------------------------------------------------------------------------------
FACES = ["trioresil", "trioresil.testing", "trioresil.httpx"]


def find_moved_docs(app: Sphinx) -> None:
    """Tell autodoc about the docstrings of attributes of classes that say they live in a public module.

    It reads those from the source of the module that the class names: a public face, which only re-exports.
    """
    for face in FACES:
        importlib.import_module(face)
    for name in sorted(sys.modules):
        face, private, _ = name.partition("._")
        face = "trioresil.httpx" if name.startswith("trioresil._http.") else face
        if private and face in FACES:
            found, wanted = ModuleAnalyzer.for_module(name), ModuleAnalyzer.for_module(face)
            found.analyze()
            wanted.analyze()
            wanted.attr_docs.update(found.attr_docs)
            wanted.annotations.update(found.annotations)
            wanted.tagorder.update(found.tagorder)


def read_prose(self: GoogleDocstring) -> list[str]:
    """Take a property's docstring as it is: napoleon would take the words before its first colon for a type."""
    return list(self._consume_to_end())


def fill_in_benchmark(app: Sphinx, name: str, source: list[str]) -> None:
    """Put measured tables into the page that asks for them."""
    source[0] = fill_in(source[0], (Path(app.srcdir) / name).parent)


def setup(app: Sphinx) -> None:
    app.connect("source-read", fill_in_benchmark)
    GoogleDocstring._parse_attribute_docstring = read_prose  # type: ignore[method-assign]
    app.connect("builder-inited", find_moved_docs)
