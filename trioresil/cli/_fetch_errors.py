"""What an error of a download says to somebody who reads it in a shell, and whether it is worth another attempt."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from typing import Any, Final

import httpx

from .._errors import CircuitIsolatedError, CircuitOpenError, RejectedError, TimedOutError, in_seconds
from .._redaction import one_line, without_secrets
from ..httpx import transient
from ._causes import causes, not_reached
from ._fetch_plan import printable

TOTAL_TIMEOUT: Final = "total-timeout"
NO_TIME: Final = ", and there is no time for another attempt"
_NO_SUCH_HOST: Final = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
_ADVICE: Final = {
    errno.ENOSPC: "; make room, and run it again",
    errno.EDQUOT: "; make room, and run it again",
}


def worth_another(error: Exception) -> bool:
    """Tell whether an attempt that ended so is worth another.

    A host that doesn't exist and a certificate that isn't trusted will be so in a minute too.
    """
    if isinstance(error, RejectedError):
        return isinstance(error, CircuitOpenError) and not isinstance(error, CircuitIsolatedError)
    if any(_is_final(each) for each in causes(error)):
        return False
    return transient(error)


def _is_final(error: BaseException) -> bool:
    if isinstance(error, socket.gaierror):
        return error.errno in _NO_SUCH_HOST
    return isinstance(error, ssl.SSLCertVerificationError)


def describe(error: Exception) -> str:
    """Return what happened, in a few words on one line, without secrets."""
    return printable(one_line(_words(error)))


def _words(error: Exception) -> str:
    match error:
        case httpx.HTTPStatusError():
            return _of_status(error)
        case CircuitOpenError():
            return "its server is spared for a while (circuit open)"
        case TimedOutError():
            what = "not whole" if error.policy == TOTAL_TIMEOUT else "no answer"
            return f"{what} within {in_seconds(error.seconds)}"
        case httpx.ConnectTimeout():
            return str(error) or "no connection in time"
        case httpx.ReadTimeout():
            return "the server fell silent"
        case httpx.WriteTimeout():
            return "the server stopped reading"
        case httpx.ConnectError():
            return _of_connecting(error)
        case httpx.ReadError() | httpx.WriteError():
            return f"the connection broke{_system_says(error)}"
        case httpx.RemoteProtocolError():
            return _of_protocol(str(error))
        case httpx.UnsupportedProtocol():  # that of the URL itself was looked at before
            return "it redirects to what is neither http:// nor https://"
        case httpx.TooManyRedirects():
            return "too many redirects"
        case BlockingIOError():
            return "another download of this file is under way"
        case OSError():
            return _of_disk(error)
        case _:
            return str(error) or type(error).__name__


def _of_status(error: httpx.HTTPStatusError) -> str:
    response = error.response
    words = f"{response.status_code} {response.reason_phrase}".rstrip()
    if response.is_success:
        return f"the server answered {words}, which is not the whole file"
    wait = response.headers.get("retry-after", "")
    return f"the server answered {words}" + (f" (Retry-After: {wait[:40]})" if wait else "")


def _of_protocol(said: str) -> str:
    if re.match("peer closed connection without sending complete|the body ended at byte", said):
        return "the connection broke in the middle"
    if said.startswith("Server disconnected"):
        return "the server closed the connection without an answer"
    if said.startswith("<"):  # an event of HTTP/2
        return f"the connection broke: {said}"
    return f"the answer is not valid HTTP: {said}"


def _of_connecting(error: Exception) -> str:
    for cause in causes(error):
        if isinstance(cause, socket.gaierror):
            known = (
                "there is no such host" if cause.errno in _NO_SUCH_HOST else "the host's name can't be looked up now"
            )
            return f"{known} ({cause.strerror})"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate can't be trusted: {cause.verify_message}"
    asked = not_reached(error)
    return f"no connection{f' to {asked}' if asked else ''}{_system_says(error)}"


def _system_says(error: Exception) -> str:
    numbers = (each.errno for each in causes(error) if isinstance(each, OSError))
    said = next((os.strerror(number) for number in numbers if number), str(error))
    return f": {said}" if said else ""


def _of_disk(error: OSError) -> str:
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    return without_secrets(f"{where}{error.strerror or error}") + _ADVICE.get(error.errno or 0, "")


def reason_of(event: Any) -> str:
    """Return why a Retry gave up, to put behind what its last attempt ended with."""
    match event.reason:
        case "attempts" if event.attempts > 1:
            return f", after {event.attempts} attempts"
        case "hint":
            return ", which is longer than a download waits"
        case "deadline":
            return NO_TIME
        case _:
            return ""
