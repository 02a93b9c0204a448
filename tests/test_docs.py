"""Every python block of the README and the docs runs; reference pages keep their headings; the runner is tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests._docs import PageError, python_blocks, run_page, runs_itself, shell_blocks

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
HEADINGS = ["What it does", "Usage", "Parameters", "Errors", "Events", "Statistics", "Diagram", "Anti-patterns"]
NOT_POLICIES = {"index", "abc", "dashboard", "errors", "events", "telemetry", "testing"}


def pages() -> list[str]:
    found = [path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts]
    return [path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *found]]


def policy_pages() -> list[str]:
    stems = [path.stem for path in REFERENCE.glob("*.md") if path.stem not in NOT_POLICIES]
    return sorted(stem for stem in stems if not stem.startswith(("http", "cli-")))  # the pages of these edges


@pytest.mark.parametrize("page", pages())
def test_the_code_of_a_page_runs(page: str) -> None:
    run_page(ROOT / page, page)


def test_reference_pages_have_the_fixed_headings() -> None:
    headings = {page: chapters((REFERENCE / f"{page}.md").read_text(encoding="utf-8")) for page in policy_pages()}
    assert headings == dict.fromkeys(headings, HEADINGS)


def test_every_policy_page_says_which_forms_are_checkpoints() -> None:
    silent = [
        page for page in policy_pages() if "\n**Checkpoints.** " not in (REFERENCE / f"{page}.md").read_text("utf-8")
    ]
    assert silent == []


@pytest.mark.parametrize("page", pages())
def test_links_to_files_lead_somewhere(page: str) -> None:
    """GitHub shows these pages too, where no Sphinx checks the links."""
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()] == []


def chapters(text: str) -> list[str]:
    """Return the second-level headings of a page, those inside code blocks left out."""
    prose = re.sub(r"^(`{3,}|~{3,}).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^## (.+?)\s*$", prose, flags=re.MULTILINE)


# --- the runner itself -----------------------------------------------------------------------------------------------


def run(tmp_path: Path, text: str) -> int:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    return run_page(page, "page.md")


def test_blocks_share_a_namespace_and_run_in_order(tmp_path: Path) -> None:
    text = (
        "```python\nseen = [1]\n```\nThen:\n```python\nseen.append(2)\n```\n\n```python\nassert seen == [1, 2]\n```\n"
    )
    assert run(tmp_path, text) == 3


def test_a_failing_block_fails_and_its_traceback_points_into_the_page(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run(tmp_path, "# Title\n\n```python\nx = 1\nx / 0\n```\n")
    last = caught.traceback[-1]
    assert (str(last.path).rpartition("/")[2], last.lineno + 1) == ("page.md", 5)


def test_top_level_await_runs_on_a_virtual_clock(tmp_path: Path) -> None:
    text = """
```python
import trio, time
began, really = trio.current_time(), time.monotonic()
await trio.sleep(3600)
async with trio.open_nursery() as nursery:
    nursery.start_soon(trio.sleep, 3600)
assert trio.current_time() - began == 7200
assert time.monotonic() - really < 60
```
"""
    assert run(tmp_path, text) == 1


def test_a_script_runs_outside_a_run_and_on_a_virtual_clock(tmp_path: Path) -> None:
    text = """
```python
import trio
async def main():
    await trio.sleep(3600)
    return "done"
if __name__ == "__main__":
    outcome = trio.run(main)
```
```python
assert outcome == "done"
```
"""
    assert run(tmp_path, text) == 2


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import trio\ntrio.run(main)", True),
        ("if __name__ == '__main__':\n    trio.run(main)", True),
        ("value = [trio.run(main)]", True),
        ("def start():\n    trio.run(main)", False),
        ("# trio.run(main)", False),
        ("await trio.run_process(['ls'])", False),
    ],
)
def test_only_a_call_of_run_at_top_level_makes_a_script(source: str, expected: bool) -> None:
    if source.startswith("await"):
        source = f"async def f():\n    {source}"
    assert runs_itself(source) is expected


def test_hidden_setup_runs_before_its_block(tmp_path: Path) -> None:
    text = "<!-- test: setup\nawait_me = 4\n-->\n\n```python\nassert await_me == 4\n```\n"
    assert run(tmp_path, text) == 1


def test_hidden_setup_may_await(tmp_path: Path) -> None:
    text = "<!-- test: setup\nimport trio\nawait trio.sleep(1)\nx = 1\n-->\n```python\nassert x == 1\n```\n"
    assert run(tmp_path, text) == 1


def test_an_expected_error_passes(tmp_path: Path) -> None:
    assert run(tmp_path, "<!-- test: raises ValueError -->\n```python\nint('x')\n```\n") == 1


def test_an_expected_error_may_be_named_by_the_page(tmp_path: Path) -> None:
    text = "<!-- test: raises errors.Mine -->\n```python\nimport types\n"
    text += "errors = types.SimpleNamespace(Mine=type('Mine', (Exception,), {}))\nraise errors.Mine\n```\n"
    assert run(tmp_path, text) == 1


def test_an_expected_error_that_does_not_come_fails(tmp_path: Path) -> None:
    with pytest.raises(PageError, match=r"page\.md:3: this block should raise ValueError, and raised nothing"):
        run(tmp_path, "<!-- test: raises ValueError -->\n```python\nint('1')\n```\n")


def test_another_error_than_the_expected_one_comes_out(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        run(tmp_path, "<!-- test: raises ValueError -->\n```python\n{}[1]\n```\n")


def test_an_error_in_the_setup_is_not_the_expected_one(tmp_path: Path) -> None:
    text = "<!-- test: setup\nint('x')\n-->\n<!-- test: raises ValueError -->\n```python\nint('x')\n```\n"
    with pytest.raises(ValueError, match="invalid literal") as caught:
        run(tmp_path, text)
    assert caught.traceback[-1].lineno + 1 == 2


def test_output_that_is_shown_is_what_the_block_before_it_printed(tmp_path: Path) -> None:
    block = "```python\nprint('a')\nprint('  b')\n```\nIt prints:\n\n<!-- test: printed -->\n```text\n"
    assert run(tmp_path, f"{block}a\n  b\n```\n") == 1
    for wrong in ["a\n", "a\n  b\nc\n", "a\nb\n", ""]:
        with pytest.raises(PageError, match=r"page\.md:2: this block printed"):
            run(tmp_path, f"{block}{wrong}```\n")


def test_output_of_a_script_is_compared_too(tmp_path: Path) -> None:
    text = "```python\nimport trio\nasync def main():\n    print('a')\ntrio.run(main)\n```\n"
    with pytest.raises(PageError, match="this block printed"):
        run(tmp_path, f"{text}<!-- test: printed -->\n```text\nb\n```\n")


@pytest.mark.parametrize("clock", ["real", "virtual"])
@pytest.mark.parametrize("script", [False, True])
def test_a_block_may_ask_for_the_real_clock(tmp_path: Path, clock: str, script: bool) -> None:
    code = "clock = type(trio.lowlevel.current_clock()).__name__"
    if script:
        code = f"async def main():\n    return {code.removeprefix('clock = ')}\nclock = trio.run(main)"
    directive = "<!-- test: real clock -->\n" if clock == "real" else ""
    expected = "SystemClock" if clock == "real" else "MockClock"
    text = f"{directive}```python\nimport trio\n{code}\n```\n```python\nassert clock == {expected!r}, clock\n```\n"
    assert run(tmp_path, text) == 2


def test_a_block_that_is_not_run_gives_its_reason(tmp_path: Path) -> None:
    text = "<!-- test: not run, because it needs a bank -->\n```python\nraise SystemExit\n```\n"
    assert run(tmp_path, text) == 0
    assert python_blocks(text)[0].directives.not_run == "it needs a bank"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- test: not run, because -->\n```python\n```\n", "without its reason"),
        ("<!-- test: not run -->\n```python\n```\n", "without its reason"),
        ("<!-- test: raises -->\n```python\n```\n", "unknown directive"),
        ("<!-- test: reel clock -->\n```python\n```\n", "unknown directive"),
        ("<!-- test: real clock\n-->\n```python\n```\n", "only a setup"),
        ("<!-- test: setup\nx = 1\n```python\n```\n", "never closed"),
        ("<!-- test: real clock -->\nText.\n```python\n```\n", "right before its block"),
        ("<!-- test: real clock -->\n```text\n```\n", "isn't python"),
        ("<!-- test: real clock -->\n", "has no block"),
        ("<!-- test: printed -->\n```text\na\n```\n", "no block that is run"),
        ("```python\n```\n<!-- test: printed -->\n```console\na\n```\n", "isn't text"),
        ("```python\n```\n<!-- test: printed -->\n```python\n```\n", "isn't text"),
        (2 * "<!-- test: printed -->\n```text\n```\n", "no block that is run"),
        ("```python\nx = 1\n", "never closed"),
        ("```py\nx = 1\n```\n", "with ```python"),
        ("```{code-block} python\nx = 1\n```\n", "with ```python"),
    ],
)
def test_a_directive_that_cannot_be_obeyed_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PageError, match=re.escape(message)):
        run(tmp_path, text)


@pytest.mark.parametrize("language", ["", "text", "console", "pycon", "toml", "sh", "pytb"])
def test_blocks_in_other_languages_are_not_run(tmp_path: Path, language: str) -> None:
    assert run(tmp_path, f"```{language}\nthis is not python\n```\n") == 0


def test_an_indented_block_and_a_block_inside_a_directive_are_found(tmp_path: Path) -> None:
    text = "- item\n\n  ```python\n  seen = [1]\n  ```\n\n:::{note}\n```python\nassert seen == [1]\n```\n:::\n"
    assert run(tmp_path, text) == 2


def test_a_block_shown_inside_a_longer_fence_is_text(tmp_path: Path) -> None:
    assert run(tmp_path, "````text\n```python\nraise SystemExit\n```\n````\n") == 0


def test_shell_blocks_are_found() -> None:
    assert shell_blocks("```sh\na\n```\n```python\nb\n```\n```bash\nc\n```\n") == ["a\n", "c\n"]


def test_headings_in_code_blocks_are_no_chapters() -> None:
    assert chapters("# T\n## One\n```sh\n## no\n```\n### sub\n## Two  \n") == ["One", "Two"]
