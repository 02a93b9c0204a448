"""GOAWAY frames are found however the bytes come in pieces, and everything else is left as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioresil._http._frames import LONGEST, Frames


def frame(kind: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, 0]) + bytes(4) + payload


def goaway(last: int) -> bytes:
    return frame(7, last.to_bytes(4, "big") + bytes(4) + b"debug")


FRAMES = st.lists(
    st.one_of(
        st.builds(frame, st.sampled_from([0, 1, 4, 6, 8]), st.binary(max_size=20)),
        st.integers(0, 2**31 - 1),
    ),
    max_size=8,
)


@given(FRAMES, st.lists(st.integers(1, 12), max_size=60))
def test_goaways_are_taken_out_in_any_pieces(frames: list[bytes | int], cuts: list[int]) -> None:
    data = b"".join(goaway(each) if isinstance(each, int) else each for each in frames)
    sifter, kept, found = Frames(), b"", []
    for cut in [*cuts, len(data)]:
        piece, data = data[:cut], data[cut:]
        passed, goaways = sifter.sift(piece)
        kept += passed
        found += goaways
    assert kept == b"".join(each for each in frames if isinstance(each, bytes))
    assert found == [each for each in frames if isinstance(each, int)]


def test_a_frame_too_long_is_refused_before_it_has_come() -> None:
    with pytest.raises(ValueError, match="16385 bytes"):
        Frames().sift((LONGEST + 1).to_bytes(3, "big") + bytes(6))
