"""Draws docs/howto/timeouts.svg: one request on a line of time, and which time-out bounds which part of it.

Run it when a layer or a time-out changes; a test compares.
"""

from __future__ import annotations

from pathlib import Path

PICTURE = Path(__file__).parent / "howto" / "timeouts.svg"

WIDTH, HEIGHT = 860, 372
LEFT, RIGHT = 150, 840
ROW = 30

QUEUE, WORK, WAIT, BODY = "#f3d9a4", "#bcd7f0", "#e4e4e4", "#c9e4c5"

# What happens: (from, to, colour, text), in units of the line, which is 100 long.
COURSE = [
    (0, 9, QUEUE, "limits"),
    (9, 15, QUEUE, "pool"),
    (15, 21, WORK, "dial"),
    (21, 25, WORK, "send"),
    (25, 36, WORK, "silence"),
    (36, 46, WAIT, "backoff"),
    (46, 50, QUEUE, ""),
    (50, 54, WORK, "send"),
    (54, 62, WORK, "…"),
    (62, 68, WORK, "head"),
    (68, 100, BODY, "body"),
]

# Each time-out, and the stretches that it bounds; it begins anew with each.
BOUNDS = [
    ("trio.fail_after", "#333333", [(0, 100)]),
    ("total_timeout", "#b03030", [(0, 68)]),
    ("attempt_timeout", "#d06020", [(9, 36), (46, 68)]),
    ("body_timeout", "#2f7d32", [(68, 100)]),
    ("httpx pool", "#557799", [(9, 15), (46, 50)]),
    ("httpx connect", "#557799", [(15, 21)]),
    ("httpx write", "#557799", [(21, 25), (50, 54)]),
    ("httpx read", "#557799", [(25, 36), (54, 62), (62, 68), (68, 78), (78, 86), (86, 100)]),
]
MARKS = [(36, "attempt 1 fails"), (68, "head"), (100, "body read")]

HEAD = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"
     font-family="sans-serif" font-size="13" role="img" aria-label="Which time-out bounds which part of a request">
<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#fff"/>
"""


def draw() -> str:
    """Return the picture as SVG."""
    parts = [HEAD]
    bottom = 92 + ROW * len(BOUNDS)
    for at, text in MARKS:
        anchor = "end" if at == 100 else "middle"
        parts.append(
            f'<line x1="{_x(at):g}" y1="30" x2="{_x(at):g}" y2="{bottom}" stroke="#999" stroke-dasharray="3,4"/>\n'
            f'<text x="{_x(at):g}" y="22" text-anchor="{anchor}" fill="#333">{text}</text>\n'
        )
    parts += [_stretch(*each) for each in COURSE]
    for row, (name, colour, stretches) in enumerate(BOUNDS):
        parts.append(_bound(92 + ROW * row, name, colour, stretches))
    parts.append(_legend(bottom + 28))
    return "".join(parts) + "</svg>\n"


def _x(at: float) -> float:
    return LEFT + (RIGHT - LEFT) * at / 100


def _stretch(begin: float, end: float, colour: str, text: str) -> str:
    x, width = _x(begin), _x(end) - _x(begin)
    return (
        f'<rect x="{x:g}" y="38" width="{width:g}" height="30" fill="{colour}" stroke="#fff"/>\n'
        f'<text x="{x + width / 2:g}" y="57" text-anchor="middle" font-size="11" fill="#222">{text}</text>\n'
    )


def _bound(y: float, name: str, colour: str, stretches: list[tuple[float, float]]) -> str:
    lines = "".join(
        f'<path d="M{_x(begin) + 1:g},{y - 5} v10 m0,-5 H{_x(end) - 1:g} m0,-5 v10" fill="none" stroke="{colour}" '
        'stroke-width="2"/>\n'
        for begin, end in stretches
    )
    return f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end" fill="{colour}">{name}</text>\n{lines}'


def _legend(y: float) -> str:
    parts, x = [], float(LEFT)
    for colour, text in ((QUEUE, "a queue"), (WORK, "on the wire"), (WAIT, "a wait"), (BODY, "after the head")):
        parts.append(
            f'<rect x="{x:g}" y="{y - 11}" width="14" height="14" fill="{colour}"/>\n'
            f'<text x="{x + 20:g}" y="{y}" fill="#333">{text}</text>\n'
        )
        x += 130
    return "".join(parts)


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
