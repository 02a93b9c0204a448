"""HTTP/2 frames, as far as they must be seen before h2 sees them.

A GOAWAY is taken out of what h2 reads: it would end every stream at once, those too that the peer said it would still answer. A
frame longer than we allow is refused: h2 would first wait for its end.
"""

from __future__ import annotations

from typing import Final

LONGEST: Final = 2**14
"""Bytes in a frame at most: HTTP/2's default, and we allow no more."""
_HEADER: Final = 9
_GOAWAY: Final = 7
_LAST_ID: Final = 0x7FFFFFFF


class Frames:
    """Follows the frames of a byte stream, and takes the GOAWAYs out."""

    __slots__ = ("_goaway", "_header", "_left")

    def __init__(self) -> None:
        self._header = b""  # of a frame, as far as it is there
        self._left = 0  # bytes of the frame's payload that are to come
        self._goaway: bytes | None = None  # its payload so far

    def sift(self, data: bytes) -> tuple[bytes, list[int]]:
        """Return what is left for the engine, and the last stream that each GOAWAY names; a ValueError for what is no frame."""
        kept: list[bytes] = []
        goaways: list[int] = []
        at = 0
        while at < len(data) or (self._left == 0 and self._goaway is not None):
            if self._left or self._goaway is not None:
                part = data[at : at + self._left]
                at += len(part)
                self._left -= len(part)
                if self._goaway is None:
                    kept.append(part)
                    continue
                self._goaway += part
                if self._left == 0:
                    goaways.append(int.from_bytes(self._goaway[:4], "big") & _LAST_ID)
                    self._goaway = None
                continue
            part = data[at : at + _HEADER - len(self._header)]
            at += len(part)
            self._header += part
            if len(self._header) == _HEADER:
                self._left = int.from_bytes(self._header[:3], "big")
                if self._left > LONGEST:
                    raise ValueError(f"a frame of {self._left} bytes, and {LONGEST} are allowed")
                if self._header[3] == _GOAWAY:
                    self._goaway = b""
                else:
                    kept.append(self._header)
                self._header = b""
        return b"".join(kept), goaways
