"""download: a file over HTTP that goes on where it broke off, in this run of the program or in the next."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any, Final, Protocol

from .._checks import function
from .._errors import RejectedError
from .._kernel.backoff import exponential
from .._policies.retry import Retry
from ._download_run import DownloadReport as DownloadReport
from ._download_run import DownloadRun, Progress
from ._judgement import Judge
from ._library import Library
from ._part_file import PartFile


class Download(Protocol):
    """The signature of `download`."""

    async def __call__(
        self,
        client: Any,
        url: Any,
        path: str | os.PathLike[str],
        progress: Progress | None = None,
        *,
        digest: str | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        follow_redirects: bool | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> DownloadReport: ...


def bind(library: Library) -> Download:
    """Return the `download` of a client library."""
    outcomes = Judge(library)

    def worth_another(error: Exception) -> bool:
        if isinstance(error, RejectedError):
            return error.retry_after is not None  # a circuit that is open now: there is time
        return outcomes.may_be_sent_again(error)  # each is of a GET

    default_retry = Retry(
        on=worth_another,
        max_attempts=10,
        backoff=exponential(initial=0.5, max=30.0),
        delay_hint=outcomes.seconds_asked,
        name="download",
    )

    async def download(
        client: Any,
        url: Any,
        path: str | os.PathLike[str],
        progress: Progress | None = None,
        *,
        digest: str | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        follow_redirects: bool | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> DownloadReport:
        """Download a file, and go on where it broke off.

        A body that breaks is asked for again from where it broke (Range), if it is still the same (If-Range). What has come is
        kept beside the target, in `path` + ".part", so that a cancelled download, or the next run of the program, goes on too.
        The file appears at `path` when it is whole, by one rename; what was there before stays until then. Bytes are saved as
        they are sent: "identity" is asked for, and a Content-Encoding is not undone.

        It isn't for a body that you want to work on while it comes: use `client.stream` for that.

        Synopsis::

            async with open_client() as client:
                report = await download(client, url, "data.tar.gz", digest="sha256:9f86d0…")

        Args:
          client (AsyncClient): any client of this library; its redirects, time-outs and authentication are used.
          url (str or URL): what to GET.
          path (path): where to put it. Its directory must exist.
          progress ((done_bytes, total_bytes or None) -> object): called after each chunk that was written, of about 256 KiB,
            or what came in a second. `done_bytes` falls when a download has to begin anew. What it raises comes out.
          digest (str): what the file has to be, as "sha256:…" in hexadecimal, or another of hashlib's algorithms. Default: any.
          retry (Retry): which errors are worth another attempt, how many there are without progress, and the waits between.
            Default: 10 attempts for broken exchanges, no connection, 408, 429, 502, 503, 504 and a circuit that is open, with
            exponential(initial=0.5, max=30), and Retry-After honoured.
          headers (mapping of str to str): of each request. Default: none.
          follow_redirects (bool): whether to follow redirects. Default: as the client does.
          extensions (mapping): of each request, as RequestOptions. Default: none.

        Returns:
          DownloadReport: frozen; what was done.

        Cancellation: nothing is at `path`, and the part is left to go on with. Once the file is there, it returns. A checkpoint.

        Raises:
          HTTPStatusError: of the client library; the server refuses, or attempts ran out.
          TransportError: of the client library; the last attempt's, when attempts or time run out.
          DecodingError: of the client library; the file is not what `digest` says. Nothing is kept.
          BlockingIOError: another download to this path is under way.
          OSError: the disk's; the part is kept.

        Source: RFC 9110, sections 13 and 14.
        """
        if not isinstance(client, library.client.AsyncClient):
            raise TypeError(f"client must be an {library.name}.AsyncClient, not {client!r}")
        if retry is not None and not isinstance(retry, Retry):
            raise TypeError(f"retry must be a trioresil.Retry or None, not {retry!r}")
        run = DownloadRun(
            library=library,
            client=client,
            url=url,
            part=PartFile(_absolute(path)),
            progress=function("progress", progress, signature="(done_bytes, total_bytes) -> object"),
            digest=check_digest(digest),
            retry=default_retry if retry is None else retry,
            headers=_check_headers(headers),
            options=_options(follow_redirects, extensions),
        )
        return await run.run()

    download.__qualname__ = "download"
    return download


_DIGEST: Final = re.compile(r"(?P<algorithm>[A-Za-z0-9_-]+):(?P<value>[0-9A-Fa-f]+)")


def check_digest(digest: Any) -> tuple[str, str] | None:
    """Return the algorithm and the hexadecimal digits of a digest, or say what is wrong with it."""
    if digest is None:
        return None
    if not isinstance(digest, str):
        raise TypeError(f"digest must be a string like 'sha256:9f86d0…' or None, not {digest!r}")
    found = _DIGEST.fullmatch(digest)
    algorithm = found["algorithm"].lower() if found is not None else ""
    size = hashlib.new(algorithm).digest_size if algorithm in hashlib.algorithms_available else 0
    if found is None or size == 0:  # those of any length, like shake_128, say too little
        raise ValueError(f"digest must be 'algorithm:hexadecimal' with an algorithm of hashlib, not {digest!r}")
    if len(found["value"]) != 2 * size:
        raise ValueError(f"digest must have {2 * size} hexadecimal digits for {algorithm}, not {digest!r}")
    return algorithm, found["value"].lower()


def _check_headers(headers: Any) -> dict[str, str]:
    given = dict(headers or {})
    for name in given:
        if str(name).lower() in {"range", "if-range", "accept-encoding"}:
            raise ValueError(f"headers must not hold {name}: download sets it")
    return given


def _options(follow_redirects: bool | None, extensions: Mapping[str, Any] | None) -> dict[str, Any]:
    options: dict[str, Any] = {} if follow_redirects is None else {"follow_redirects": follow_redirects}
    return options if extensions is None else {**options, "extensions": dict(extensions)}


def _absolute(path: Any) -> str:
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise TypeError(f"path must be a path, not {path!r}")
    if not os.fspath(path):
        raise ValueError("path must be the path of a file, not ''")
    return os.path.abspath(os.fspath(path))
