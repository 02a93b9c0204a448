"""What keeps secrets out of logs, metrics, spans and pages: credentials, query strings and header values are left out.

Errors of other libraries say what they were about, and that may be a URL with a password in it, or a header. Whoever shows a
text that is not his own puts it through here first, and shortens it only afterwards: half a URL can't be recognised.
Rather too much is left out than too little. What has the look of no secret, such as a customer's name, is not found.
"""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "***"
_LONGEST_READ: Final = 4_000

_IN_QUERY: Final = r"(?:[^\s'\"]|['\"](?=[\w%]))*"
_URL: Final = re.compile(
    r"(:|(?<![\w/:]))//"
    r"(?:[^\s/?#@:\[]*:(?!\d{1,5}(?:[/?#'\"\s,;)]|$))\S*@"  # a password may hold what should have been escaped, but is no port
    r"|[^\s/?#]*@)?"
    rf"([^\s'\"?#]*)(?:[?#]{_IN_QUERY})?"
)
_QUERY: Final = re.compile(rf"(?<=[\w/%~)-])\?(?=[\w%\[]){_IN_QUERY}")
_BARE_CREDENTIALS: Final = re.compile(r"(?:(?<=[\s'\"(=,])|^)[\w.+%-]+:[^\s/'\"@:]+@(?=[\w\[])")
_NAMES: Final = (
    r"(?:proxy-)?authorization|(?:set-)?cookie2?|[\w-]*"
    r"(?:api[-_]?key|key[-_]?id|(?:access|account|private|secret)[-_]?key|session[-_]?id|secret|token|password|passwd|pwd"
    r"|passphrase|signature|credentials?)"
)
_QUOTED: Final = (
    r"b?\\+'[^'\n]*'|b?\\+\"[^\"\n]*\"|b?'(?:\\.|[^'\\\n])*'|b?\"(?:\\.|[^\"\\\n])*\"|b?\\*['\"][^\n]*"  # last: cut off
)
_HEADER: Final = re.compile(
    rf"(?i)(?<![\w-])({_NAMES})(?![\w-])"  # its name
    r"(\\*['\"]?\s*(?::|=|%3[ad]|(?<=\w)>|(?<=['\"]),)\s*)"  # `name: `, `'name': `, `name=`, or a pair of a list, `'name', `
    rf"(?:{_QUOTED}|digest\s[^\n]*|[^'\"\n,)\]}}]+)"  # its value: quoted, or up to the end of the clause
)
_OPTION: Final = re.compile(rf"(?i)(?<![\w-])(--(?:{_NAMES}))\s+[^\s'\"]+")
_VALUE: Final = re.compile(rf"(?i)\b(header value:?\s+)(?:{_QUOTED})")
_SCHEME: Final = re.compile(r"(?i)\b(bearer|basic|digest|negotiate)(\s+)(?=[^\s'\",;]*[\d=])[\w.~+/=-]{6,}")
_MARK: Final = re.compile(r"[:/?@=]")
_JWT: Final = re.compile(r"\beyJ[\w-]{4,}\.[\w-]+(?:\.[\w-]*)?")
_JOINERS: Final = "\u200c\u200d"  # of letters and of emoji


def without_secrets(text: str) -> str:
    """Return text without credentials, without the query strings of URLs, and without the values of headers that hold secrets."""
    text = _URL.sub(r"\1//\2", text)
    text = _QUERY.sub("", text)
    text = _BARE_CREDENTIALS.sub("", text)
    text = _HEADER.sub(rf"\1\2{HIDDEN}", text)
    text = _OPTION.sub(rf"\1 {HIDDEN}", text)
    text = _VALUE.sub(rf"\1{HIDDEN}", text)
    text = _SCHEME.sub(rf"\1\2{HIDDEN}", text)
    return _JWT.sub(HIDDEN, text)


def one_line(text: str, longest: int = 200) -> str:
    """Return text without secrets, on one line, cut short, and without what could steer a terminal or spoil an encoding."""
    if len(text) > _LONGEST_READ:  # what the cut may have halved is dropped: it could not be recognised any more
        text = text[:_LONGEST_READ].rpartition(" ")[0] or _MARK.split(text[:longest], maxsplit=1)[0]
    text = " ".join(without_secrets(text).split())
    if not text.isprintable():
        text = "".join(each if each.isprintable() or each in _JOINERS else "?" for each in text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def safe_repr(value: object, longest: int = 200) -> str:
    """Return a value's repr on one line, without secrets, cut short; never an error."""
    try:
        text = repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
    return one_line(text, longest)


def safe_error(error: BaseException, longest: int = 200) -> str:
    """Return what kind of error it is and what it says, on one line, without secrets, cut short."""
    try:
        said = str(error)
    except Exception:
        said = ""
    kind = type(error).__name__
    return one_line(f"{kind}: {said}" if said else kind, longest)
