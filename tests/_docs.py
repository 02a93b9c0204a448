"""Executes the python code blocks of a Markdown page.

The blocks of one page share a namespace and run in order, each in a Trio run of its own on a virtual clock, so that a
sleep takes no time; `await`, `async with` and `async for` may stand at top level. A block that calls `trio.run` itself
is run as a script, and its run gets the virtual clock as well.

An HTML comment in front of a block changes how it is run (several may follow each other):

    <!-- test: setup
    client = fake_client()
    -->                                          python that runs before the block and isn't shown
    <!-- test: raises trioresil.TimedOutError --> the block must end with this error
    <!-- test: real clock -->                     the block does real input and output
    <!-- test: not run, because it needs a server that is not here -->

And one stands in front of a block of text, which must be all that the python block before it has printed:

    <!-- test: printed -->
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

import trio
from trio.testing import MockClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<language>[^`\s]*)[^`]*$")
DISGUISES = {"py", "py3", "python3", "{code}", "{code-block}", "{doctest}", "{testcode}"}
COMMENT = re.compile(r"^ *<!-- *test:(?P<text>.*?)(?P<end>-->)?\s*$")


class PageError(Exception):
    """A directive that can't be obeyed, or a block that did not do what its directive says."""


@dataclass
class Directives:
    """What the comments in front of a block ask for."""

    setup: str = ""
    setup_line: int = 0
    raises: str = ""
    real_clock: bool = False
    not_run: str = ""
    printed: bool = False


@dataclass
class Block:
    """One fenced block of python."""

    source: str
    line: int  # of its first line of code, counted from 1
    directives: Directives = field(default_factory=Directives)
    printed: str | None = None  # what the page says that it prints


# --- reading ---------------------------------------------------------------------------------------------------------


def python_blocks(text: str) -> list[Block]:
    """Return the ```python blocks of a page, in order, each with the directives in front of it."""
    blocks: list[Block] = []
    for language, source, line, directives in _fences(text):
        if directives.printed:
            if not blocks or blocks[-1].printed is not None or blocks[-1].directives.not_run:
                raise PageError(f"line {line - 1}: no block that is run stands before what it should have printed")
            blocks[-1].printed = source
        elif language == "python":
            blocks.append(Block(source, line, directives))
    return blocks


def shell_blocks(text: str) -> list[str]:
    """Return the source of the shell blocks of a page."""
    return [source for language, source, _, _ in _fences(text) if language in {"sh", "bash", "shell"}]


def _fences(text: str) -> Iterator[tuple[str, str, int, Directives]]:
    lines = text.splitlines()
    pending: Directives | None = None
    at = 0
    while at < len(lines):
        if comment := COMMENT.match(lines[at]):
            pending = pending or Directives()
            at = _read_directive(pending, lines, at, comment)
        elif fence := FENCE.match(lines[at]):
            end = _end_of_fence(lines, at, fence["fence"])
            if fence["language"].lower() in DISGUISES:
                raise PageError(f"line {at + 1}: open a block of python with ```python, so that it is run")
            wanted = "text" if pending is not None and pending.printed else "python"
            if pending is not None and fence["language"] != wanted:
                raise PageError(f"line {at + 1}: a test comment stands before a block that isn't {wanted}")
            source = textwrap.dedent("\n".join(lines[at + 1 : end])) + "\n"
            yield fence["language"], source, at + 2, pending or Directives()
            pending = None
            at = end + 1
        elif pending is not None and lines[at].strip():
            raise PageError(f"line {at + 1}: a test comment must stand right before its block")
        else:
            at += 1
    if pending is not None:
        raise PageError("the page ends with a test comment that has no block")


def _end_of_fence(lines: list[str], start: int, fence: str) -> int:
    for at in range(start + 1, len(lines)):
        line = lines[at].strip()
        if line.startswith(fence) and not line.strip(fence[0]):
            return at
    raise PageError(f"line {start + 1}: this block is never closed")


def _read_directive(directives: Directives, lines: list[str], start: int, comment: re.Match[str]) -> int:
    """Read the directive that begins at a line, and return the number of the line after it."""
    text = comment["text"].strip()
    if text == "setup" and not comment["end"]:
        for at in range(start + 1, len(lines)):
            if lines[at].strip() == "-->":
                directives.setup = textwrap.dedent("\n".join(lines[start + 1 : at])) + "\n"
                directives.setup_line = start + 2
                return at + 1
        raise PageError(f"line {start + 1}: this setup is never closed by a line -->")
    if not comment["end"]:
        raise PageError(f"line {start + 1}: only a setup has more than one line")
    if text.startswith("raises ") and text.split()[1:]:
        directives.raises = text.removeprefix("raises ").strip()
    elif text == "real clock":
        directives.real_clock = True
    elif text == "printed":
        directives.printed = True
    elif (reason := re.fullmatch(r"not run, because (?P<why>\S.*)", text)) is not None:
        directives.not_run = reason["why"]
    else:
        raise PageError(f"line {start + 1}: unknown directive, or one without its reason: {text!r}")
    return start + 1


# --- running ---------------------------------------------------------------------------------------------------------


def run_page(path: Path, shown: str) -> int:
    """Execute a page and return how many blocks were run. Tracebacks point into the page."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    blocks = [block for block in python_blocks(path.read_text(encoding="utf-8")) if not block.directives.not_run]
    for block in blocks:
        with redirect_stdout(io.StringIO()) as out:
            _run_block(block, namespace, shown)
        if block.printed is not None and block.printed != out.getvalue():
            raise PageError(
                f"{shown}:{block.line}: this block printed\n{out.getvalue()}and the page shows\n{block.printed}"
            )
    return len(blocks)


def _run_block(block: Block, namespace: dict[str, Any], shown: str) -> None:
    directives = block.directives
    where = f"{shown}:{block.line}"

    async def in_trio() -> None:
        await _execute(directives.setup, directives.setup_line, namespace, shown)
        with _expecting(directives.raises, namespace, where):
            await _execute(block.source, block.line, namespace, shown)

    if not runs_itself(block.source):
        trio.run(in_trio, clock=None if directives.real_clock else MockClock(autojump_threshold=0))
        return
    with _real_time() if directives.real_clock else virtual_time():
        exec(_compiled(directives.setup, directives.setup_line, shown, flags=0), namespace)
        with _expecting(directives.raises, namespace, where):
            exec(_compiled(block.source, block.line, shown, flags=0), namespace)


def runs_itself(source: str) -> bool:
    """Whether a source calls trio.run at its top level (not inside a function that it only defines)."""
    todo: list[ast.AST] = [ast.parse(source)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "trio.run":
            return True
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            todo.extend(ast.iter_child_nodes(node))
    return False


@contextmanager
def virtual_time() -> Iterator[None]:
    """Within the block, trio.run uses a virtual clock that jumps, unless it is given another one."""
    real_run = trio.run

    def run(*args: Any, **options: Any) -> Any:
        if options.get("clock") is None:
            options["clock"] = MockClock(autojump_threshold=0)
        return real_run(*args, **options)

    with mock.patch.object(trio, "run", run):
        yield


@contextmanager
def _real_time() -> Iterator[None]:
    yield


def _compiled(source: str, line: int, shown: str, *, flags: int) -> Any:
    padded = "\n" * max(line - 1, 0) + source  # so that line numbers are those of the page
    return compile(padded, shown, "exec", flags=flags, dont_inherit=True)


async def _execute(source: str, line: int, namespace: dict[str, Any], shown: str) -> None:
    code = _compiled(source, line, shown, flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, namespace)
    if inspect.iscoroutine(result):
        await result


@contextmanager
def _expecting(name: str, namespace: dict[str, Any], where: str) -> Iterator[None]:
    if not name:
        yield
        return
    try:
        yield
    except Exception as error:
        expected = eval(name, namespace)
        if isinstance(error, expected):
            return
        raise
    raise PageError(f"{where}: this block should raise {name}, and raised nothing")
