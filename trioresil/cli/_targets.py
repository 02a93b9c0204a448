"""What to watch: URLs and files of targets, read and checked before anything is asked. Pure but for reading the file.

A setting comes from the target itself, or else from the command line, or else from the file's top level, or else from here.
Nothing that may be a secret gets into a message: no credentials, no query, no header.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import attrs
import httpx

from .._checks import flag, number, seconds, text, whole
from .._redaction import without_secrets

SCHEMES: Final = ("https", "http", "tcp", "tls", "dns")
HTTP: Final = ("https", "http")
_STATUS: Final = re.compile(r"(?P<kind>[1-5])xx|(?P<first>[1-5]\d\d)(?:-(?P<last>[1-5]\d\d))?", re.IGNORECASE)


class TargetError(ValueError):
    """A URL or a file of targets that can't be used. It says what is wrong in one line."""


class Statuses:
    """A set of HTTP statuses, written as `200`, `2xx`, `200-299`, or several of these with commas between them."""

    def __init__(self, written: str) -> None:
        self._ranges = [_status_range(part.strip()) for part in written.split(",")]
        self._written = ", ".join(part.strip() for part in written.split(","))

    def __contains__(self, status: object) -> bool:
        return any(status in each for each in self._ranges)

    def __repr__(self) -> str:
        return self._written


def _status_range(part: str) -> range:
    found = _STATUS.fullmatch(part)
    if found is None:
        raise ValueError(f"expect_status must be like 200, 2xx or 200-299, or several with commas, not {part!r}")
    if found["kind"]:
        return range(int(found["kind"]) * 100, int(found["kind"]) * 100 + 100)
    first, last = int(found["first"]), int(found["last"] or found["first"])
    if last < first:
        raise ValueError(f"expect_status must have the smaller number first, not {part!r}")
    return range(first, last + 1)


ANY_GOOD: Final = Statuses("2xx, 3xx")


@attrs.frozen(kw_only=True)
class Target:
    """One thing to watch."""

    name: str
    url: str = attrs.field(repr=False)
    scheme: str
    host: str
    port: int | None
    interval: float = 5.0
    timeout: float = 5.0
    rise: int = 2
    fall: int = 3
    degraded_above: float | None = None
    critical: bool = False
    group: str | None = None
    expect_status: Statuses = ANY_GOOD
    contains: str | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    min_days_left: float = 14.0
    ca_file: str | None = None


@attrs.frozen(kw_only=True)
class Targets:
    """All that is to be watched, and how many of each group must be healthy."""

    targets: Sequence[Target]
    need: Mapping[str, int] = attrs.field(factory=dict)


def read_targets(
    urls: Sequence[str], file: str | None, options: Mapping[str, Any], *, count: int | None = None
) -> Targets:
    """Return what is to be watched.

    Args:
      urls (list of str): what was named at the command line.
      file (str): a TOML file of more; None: there is none.
      options (dict): settings from the command line, with None for what was not given.
      count (int >= 1): how often each is asked; `rise` and `fall` are no more than that unless somebody says so.
    """
    given: dict[str, Any] = {}
    for key, value in options.items():
        if value is not None:
            with _telling("", key):
                given[key] = SETTINGS[key](value)
    found: dict[str, Any] = {} if file is None else _loaded(file)
    where = "" if file is None else f"{file}: "
    with _telling(where):
        need, defaults, tables = _parts(found, None if file is None else Path(file).parent)
    if count is not None:
        defaults = {"rise": min(2, count), "fall": min(3, count)} | defaults
    targets: list[Target] = []
    for url in urls:
        with _telling(""):
            targets.append(_target({"url": url}, {**defaults, **given}, targets))
    for index, table in enumerate(tables, 1):
        with _telling(f"{where}target {index}: "):
            folder = Path(file or "").parent
            targets.append(_target(_in_folder(table, folder), {**defaults, **given}, targets))
    _check_all(targets, need, count, where)
    return Targets(targets=targets, need=need)


# --- the file ------------------------------------------------------------------------------------------------------------


def _loaded(file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as exc:
        raise TargetError(f"{file} can't be read: {exc.strerror or exc}") from None
    except UnicodeDecodeError as exc:
        raise TargetError(f"{file} is not a TOML file: byte {exc.start} is not UTF-8") from None
    except ValueError as exc:  # TOMLDecodeError is one, and so is what a number of 5,000 digits raises
        raise TargetError(f"{file} is not a TOML file: {exc}") from None
    except RecursionError:
        raise TargetError(f"{file} is not a TOML file that can be read: it is nested too deeply") from None


def _parts(
    found: dict[str, Any], folder: Path | None
) -> tuple[dict[str, int], dict[str, Any], list[Mapping[str, Any]]]:
    """Return what a file says: how many of each group must be healthy, the settings for all, and the targets."""
    tables = found.pop("target", [])
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise TypeError("targets are tables: write [[target]], with double brackets, above each")
    need = found.pop("need", {})
    if not isinstance(need, dict):
        raise TypeError("need must be a table of groups: [need], and below it a line like upstreams = 1")
    if folder is not None and not tables:
        raise ValueError('there is no target in it: write [[target]], and below it url = "https://…"')
    _check_keys(found, SETTINGS)
    checked = {key: SETTINGS[key](value) for key, value in _in_folder(found, folder or Path()).items()}
    return {group: whole(f"need.{group}", least) for group, least in need.items()}, checked, tables


def _in_folder(table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Let a path in a file be relative to that file."""
    ca_file = table.get("ca_file")
    return {**table, "ca_file": str(folder / ca_file)} if isinstance(ca_file, str) and ca_file else dict(table)


# --- settings ------------------------------------------------------------------------------------------------------------


def _expect_status(value: object) -> Statuses:
    if isinstance(value, Statuses):
        return value
    parts = value if isinstance(value, list) else [value]
    if not parts or not all(isinstance(each, (int, str)) and not isinstance(each, bool) for each in parts):
        raise TypeError(f"expect_status must be a status, text like '2xx, 301', or a list of these, not {value!r}")
    return Statuses(",".join(map(str, parts)))


def _headers(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise TypeError('headers must be a table of texts, like { Accept = "application/json" }')
    try:
        lines = httpx.Headers(value).raw
    except UnicodeEncodeError:
        raise ValueError("headers must be ASCII") from None
    for name, line in lines:
        if not re.fullmatch(rb"[!#$%&'*+.^_`|~\w-]+", name) or re.search(rb"[\x00\r\n]", line):
            raise ValueError(f"headers must be such as HTTP can send: {name.decode()!r} is not")
    return value


def _on_one_line(name: str, value: object) -> str:
    line = text(name, value)
    if not line.isprintable():
        raise ValueError(f"{name} must not hold control characters, as {value!r} does")
    return line


Check = Callable[[Any], Any]

SETTINGS: Final[Mapping[str, Check]] = {
    "interval": partial(seconds, "interval", zero=False, finite=True),
    "timeout": partial(seconds, "timeout", zero=False, finite=True),
    "rise": partial(whole, "rise"),
    "fall": partial(whole, "fall"),
    "degraded_above": partial(seconds, "degraded_above", zero=False, finite=True),
    "expect_status": _expect_status,
    "min_days_left": partial(number, "min_days_left", least=0, finite=True, unit="days"),
    "ca_file": partial(_on_one_line, "ca_file"),
}
OWN_SETTINGS: Final[Mapping[str, Check]] = {
    "name": partial(_on_one_line, "name"),
    "critical": partial(flag, "critical"),
    "group": partial(text, "group"),
    "contains": partial(text, "contains"),
    "headers": _headers,
}
ONLY_FOR: Final[Mapping[str, tuple[str, ...]]] = {
    "expect_status": HTTP,
    "contains": HTTP,
    "headers": HTTP,
    "min_days_left": ("tls",),
    "ca_file": ("https", "tls"),
}


def _target(table: Mapping[str, Any], defaults: Mapping[str, Any], others: Sequence[Target]) -> Target:
    own = dict(table)
    _check_keys(own, {"url": None, **OWN_SETTINGS, **SETTINGS})
    if "url" not in own:
        raise ValueError("it has no url")
    url = text("url", own.pop("url"))
    parts = split_url(url)
    for key in own:
        if parts.scheme not in ONLY_FOR.get(key, SCHEMES):
            raise ValueError(f"{key} is for {' and '.join(ONLY_FOR[key])} only, and this is {parts.scheme}")
    checked = {key: (OWN_SETTINGS.get(key) or SETTINGS[key])(value) for key, value in own.items()}
    name = checked.pop("name", None)
    if name is not None and any(each.name == name for each in others):
        raise ValueError(f"name must be one that no other has, not {name!r}")
    return Target(
        **{**{"name": name or _free_name(without_secrets(url), others)}, **defaults, **checked},
        url=url,
        scheme=parts.scheme,
        host=parts.hostname or "",
        port=parts.port or (443 if parts.scheme == "tls" else None),
    )


def _free_name(wanted: str, others: Sequence[Target]) -> str:
    taken = {each.name for each in others}
    number = 2
    name = wanted
    while name in taken:
        name = f"{wanted} #{number}"
        number += 1
    return name


def _check_keys(table: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"there is no setting {key!r}: {hint}")


def _check_all(targets: Sequence[Target], need: Mapping[str, int], count: int | None, where: str) -> None:
    if not targets:
        raise TargetError("there is nothing to watch: name a URL, or a file with --targets")
    for target in targets:
        if count is not None and target.rise > count:
            raise TargetError(
                f"{target.name} can't become healthy: rise is {target.rise}, and it is asked {count} times"
            )
    for group, least in need.items():
        members = sum(target.group == group for target in targets)
        if members < least:
            raise TargetError(f"{where}need.{group} is {least}, and {members} of the targets are in that group")


class _telling:
    """Make what the checks of arguments raise into a TargetError that says where; a setting is called as its option is."""

    def __init__(self, where: str, key: str = "") -> None:
        self._where = where
        self._key = key

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, (TypeError, ValueError)):
            said = str(error)
            if self._key:
                said = said.replace(self._key, f"--{self._key.replace('_', '-')}", 1)
            raise TargetError(self._where + said) from None


# --- URLs ----------------------------------------------------------------------------------------------------------------


def split_url(url: str) -> SplitResult:
    """Return the parts of a URL that can be watched. Anything else is a ValueError whose message holds no secret."""
    shown = repr(without_secrets(url))
    if "://" not in url:
        raise ValueError(f"{shown} is not a URL: it must begin with {_schemes()}")
    try:
        parts = urlsplit(url)
        port = parts.port
        if parts.scheme in HTTP:
            httpx.URL(url)
    except (ValueError, httpx.InvalidURL) as exc:
        raise ValueError(f"{shown} is not a URL: {without_secrets(_reason(exc))}") from None
    if parts.scheme not in SCHEMES:
        raise ValueError(f"{shown} can't be watched: it must begin with {_schemes()}")
    if not parts.hostname:
        raise ValueError(f"{shown} is not a URL: it has no host")
    if re.search(r"\s", url) or not url.isprintable():
        raise ValueError(f"{shown} is not a URL: it holds white space or a control character")
    if port == 0:
        raise ValueError(f"{shown} is not a URL: a port is from 1 to 65535")
    if parts.scheme not in HTTP:
        _check_bare(parts, shown)
    return parts


def _reason(error: Exception) -> str:
    said = str(error)
    return "a port is a number from 1 to 65535" if "port" in said.lower() else said


def _check_bare(parts: SplitResult, shown: str) -> None:
    """Refuse in tcp://, tls:// and dns:// what they have no use for."""
    form = {"tcp": "tcp://host:port", "tls": "tls://host or tls://host:port", "dns": "dns://name"}[parts.scheme]
    superfluous = parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None
    wrong_port = parts.port is None if parts.scheme == "tcp" else parts.port is not None and parts.scheme == "dns"
    if superfluous or wrong_port:
        raise ValueError(f"{shown} can't be watched: write {form}")
    try:
        (parts.hostname or "").encode("idna")
    except UnicodeError:
        raise ValueError(f"{shown} is not a URL: its host is no name that can be looked up") from None


def _schemes() -> str:
    return f"{', '.join(f'{each}://' for each in SCHEMES[:-1])} or {SCHEMES[-1]}://"
