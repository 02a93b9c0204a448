"""The page of the benchmark has the tables of its JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from docs.tabulate_benchmark import COMMENT, fill_in
from tests.bench._report import tables

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "benchmark.md"


def test_every_table_and_every_target_is_on_the_page() -> None:
    text = PAGE.read_text("utf-8")
    found = COMMENT.search(text)
    assert found is not None
    document = json.loads((PAGE.parent / found["file"]).read_text("utf-8"))
    filled = fill_in(text, PAGE.parent)
    expected = tables(document["results"])
    assert sorted(re.findall(r"^## (.+)$", filled, re.MULTILINE)) == sorted(table.title for table in expected)
    assert [row for table in expected for row in table.rows if f"| {' | '.join(row)} |" not in filled] == []
    assert [each["name"] for each in document["targets"] if each["name"] not in filled] == []
    assert COMMENT.search(filled) is None


def test_a_page_that_asks_for_nothing_stays_as_it_is(tmp_path: Path) -> None:
    assert fill_in("# Title\n", tmp_path) == "# Title\n"


def test_measurements_that_are_not_there_stop_the_build(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fill_in("<!-- measured: none.json -->\n", tmp_path)
