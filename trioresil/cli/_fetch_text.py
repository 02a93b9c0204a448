"""What a run of `trioresil fetch` has to tell, as words and as JSON. Pure."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from rich import filesize

from .._redaction import without_secrets
from ._fetch_plan import printable
from ._fetch_run import Job

STYLES: Final = {"saved": "green", "present": "cyan", "failed": "bold red", "unfinished": "yellow"}
WORDS: Final = {"saved": "saved", "present": "there", "failed": "FAILED", "unfinished": "cut off"}
MAX_REASONS: Final = 10


def times(count: int, what: str) -> str:
    """Return a count and what is counted."""
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{count} {what if count == 1 else plural}"


def duration(seconds: float) -> str:
    """Return a duration, as exact as one wants it while one waits."""
    return clock(seconds) if seconds >= 100 else f"{seconds:.1f} s"


def clock(seconds: float) -> str:
    """Return a duration as minutes and seconds, or hours."""
    minutes, rest = divmod(int(min(seconds, 359_999)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def told(job: Job) -> str:
    """Return what became of a job, behind the word for it."""
    name = printable(job.name)
    match job.state:
        case "saved":
            parts = [f"{filesize.decimal(job.done_bytes)} in {duration(job.seconds)}"]
            if job.held_bytes:
                parts.append(f"with {filesize.decimal(job.held_bytes)} that had been kept")
            if job.retries:
                parts.append(times(len(job.retries), "retry"))
            if job.digest is not None:
                parts.append(f"{job.digest.partition(':')[0]} as it should be")
            return f"{name}  {', '.join(parts)}"
        case "present":
            checked = "" if job.digest is None else " and has the checksum"
            return f"{name}  is there already{checked}: left as it is"
        case "failed":
            return f"{name}  {job.error}{_kept(job)}"
        case _ if job.began_at is None:
            return f"{name}  was not begun"
        case _:
            return f"{name}  unfinished{_kept(job) or '; nothing can be kept of it'}"


def _kept(job: Job) -> str:
    if job.part is None:
        return ""
    path, size = job.part
    of = f" of {filesize.decimal(job.total_bytes)}" if job.total_bytes else ""
    return f"; kept in {printable(os.path.basename(path))}: {filesize.decimal(size)}{of}"


def retry_line(job: Job) -> str:
    """Return that a job will be tried again, and why."""
    assert job.pending is not None
    return f"{printable(job.name)}  {job.pending.reason}; again in {duration(job.pending.delay)}"


def summary(jobs: list[Job], seconds: float) -> list[str]:
    """Return the last lines: how many of what, what was retried and why, and how to go on."""
    counts: Counter[str] = Counter(job.state for job in jobs)
    size = sum(job.done_bytes - job.held_bytes for job in jobs if job.state == "saved")
    parts = [f"{counts['saved']} of {times(len(jobs), 'file')} saved"]
    parts += [f"{counts[state]} {word}" for state, word in _OTHERS.items() if counts[state]]
    lines = [f"{', '.join(parts)}; {filesize.decimal(size)} in {duration(seconds)}"]
    lines += _reasons(jobs)
    if any(job.part is not None for job in jobs if job.state in ("failed", "unfinished")):
        lines.append("What has come is kept: run the same command again, and it goes on from there.")
    elif counts["unfinished"]:
        lines.append("Run the same command again for the rest.")
    return lines


_OTHERS: Final = {"present": "there already", "failed": "failed", "unfinished": "unfinished"}


def _reasons(jobs: list[Job]) -> Iterator[str]:
    reasons = Counter((job.order.origin, retried.reason) for job in jobs for retried in job.retries)
    if not reasons:
        return
    waited = sum(retried.delay for job in jobs for retried in job.retries)
    yield f"{times(sum(reasons.values()), 'retry')}, {duration(waited)} of waiting in all:"
    for (origin, reason), count in reasons.most_common(MAX_REASONS):
        yield f"  {count} x  {printable(without_secrets(origin))}  {reason}"
    if len(reasons) > MAX_REASONS:
        yield f"  and {len(reasons) - MAX_REASONS} other reasons"


def document(job: Job) -> dict[str, Any]:
    """Return what became of a job, for JSON."""
    report, part = job.report, job.part
    return {
        "kind": "file",
        "number": job.order.number,
        "url": job.order.shown_url,
        "path": job.path,
        "outcome": job.state,
        "error": job.error,
        "bytes": job.done_bytes,
        "total_bytes": job.total_bytes,
        "kept_bytes": job.held_bytes,
        "part": None if part is None or job.state in ("saved", "present") else part[0],
        "seconds": round(job.seconds, 3),
        "requests": None if report is None else report.requests,
        "resumed": None if report is None else report.resumed,
        "retries": [{"reason": each.reason, "delay": round(each.delay, 3)} for each in job.retries],
    }


def summary_document(jobs: list[Job], seconds: float) -> dict[str, Any]:
    """Return the figures of the whole run, for JSON."""
    counts: Counter[str] = Counter(job.state for job in jobs)
    return {
        "kind": "summary",
        "files": len(jobs),
        **{state: counts[state] for state in ("saved", "present", "failed", "unfinished")},
        "bytes": sum(job.done_bytes - job.held_bytes for job in jobs if job.state == "saved"),
        "retries": sum(len(job.retries) for job in jobs),
        "seconds": round(seconds, 3),
    }
