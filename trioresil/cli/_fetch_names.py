"""Under which name a download is saved, when somebody far away chooses it. Pure: text in, one safe file name out.

The law of this file: whatever a URL or a header says, what comes out is one name, not a path: no separator, no `..`, nothing
hidden, nothing that a terminal would obey, no device, and short enough to have `.part.json` put behind it.
"""

from __future__ import annotations

import re
from email.message import Message
from typing import Final
from urllib.parse import unquote, urlsplit

DEFAULT_NAME: Final = "index.html"
LONGEST_BYTES: Final = 200
"""Most file systems take 255; the part and its note need ten more than the name."""

_UNSAFE: Final = re.compile(r'[\\/:*?"<>|]')
_DEVICE: Final = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)")
_LONGEST_SUFFIX: Final = 20


def name_from_url(url: str) -> str:
    """Return the name that the path of a URL ends with."""
    return safe_name(unquote(urlsplit(url).path.rpartition("/")[2]))


def name_from_header(header: str) -> str | None:
    """Return the name that a Content-Disposition gives, or None if it gives none."""
    message = Message()
    message["content-disposition"] = " ".join(header.split())
    try:
        given = message.get_filename()
    except (LookupError, ValueError):  # an encoding that doesn't exist
        return None
    if not given or not given.strip():
        return None
    return safe_name(re.split(r"[\\/]", given.strip())[-1])


def safe_name(given: str) -> str:
    """Return one file name that is like `given`, and safe."""
    name = "".join(each if each.isprintable() else "_" for each in given)
    name = _UNSAFE.sub("_", name).strip(" ").rstrip(" .")
    if not name:
        return DEFAULT_NAME if not given.strip(" .") else "_"
    if name.startswith(".") or _DEVICE.match(name):
        name = f"_{name}"
    return _shortened(name)


def _shortened(name: str) -> str:
    if len(name.encode()) <= LONGEST_BYTES:
        return name
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix.encode()) > _LONGEST_SUFFIX:
        stem, dot, suffix = name, "", ""
    room = LONGEST_BYTES - len(f"{dot}{suffix}".encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(" .") + dot + suffix
