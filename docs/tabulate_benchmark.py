"""Puts the tables of a benchmark's JSON into a page while it is built, so that they can't differ from what was measured.

In the page stands a comment `<!-- measured: folder/file.json -->`; the tables are those that `python -m tests.bench` prints.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.bench._report import Table, tables

COMMENT = re.compile(r"^<!-- measured: (?P<file>\S+) -->$", re.MULTILINE)


def fill_in(text: str, folder: Path) -> str:
    """Return a page with the tables in the place of each comment; files are named from the page's folder."""
    return COMMENT.sub(lambda found: _everything(json.loads((folder / found["file"]).read_text("utf-8"))), text)


def _everything(document: dict[str, Any]) -> str:
    missing = ", ".join(document["not_installed"]) or "none"
    about = f"{document['python']}, trio {document['trio']}, {document['machine']}. Left out, because not installed: {missing}."
    targets, *others = reversed(tables(document["results"]))
    return "\n".join([about, "", _markdown(targets), *(_markdown(each) for each in reversed(others))])


def _markdown(table: Table) -> str:
    lines = [table.header, ("---",) * len(table.header), *table.rows]
    return "\n".join([f"## {table.title}", "", *(f"| {' | '.join(line)} |" for line in lines), ""])
