"""Sphinx configuration. The pages must be readable offline: nothing is fetched when building or when reading."""

from __future__ import annotations

import builtins
import logging
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # documents this checkout, installed or not

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
napoleon_custom_sections = [("Cancellation", "notes_style"), ("Source", "notes_style"), ("Synopsis", "notes_style")]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True

# --- references -------------------------------------------------------------------------------------------------------
# Nothing is fetched, so names of other libraries can't be links. Names of our own must be: a wrong one is an error.
nitpicky = True
OTHERS = "attr attrs collections contextlib contextvars enum httpx logging math random ssl trio types typing weakref"
nitpick_ignore_regex = [
    ("py:.*", rf"({'|'.join(OTHERS.split())})(\..*)?"),
    ("py:.*", "|".join(re.escape(name) for name in dir(builtins))),
    ("py:.*", r"(.*\.)?(P|T|Ts|R)(\.args|\.kwargs)?"),  # type variables in signatures
    ("py:.*", r".*\._.*"),  # modules that aren't public are not in the docs
]

# --- pages ------------------------------------------------------------------------------------------------------------
html_theme = "furo"
html_title = f"trioresil {release}"
html_show_sphinx = False
html_copy_source = False
