"""Digests of parts, joined to that of the whole."""

from __future__ import annotations

import os

from google_crc32c import value as crc32c
from hypothesis import given
from hypothesis import strategies as st

from thaw.cuda.joining import join


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
def test_digests_of_parts_join_to_that_of_the_whole(a: bytes, b: bytes, c: bytes) -> None:
    joined = join(join(crc32c(a), crc32c(b), len(b)), crc32c(c), len(c))
    assert joined == crc32c(a + b + c)


def test_digests_of_large_parts_join() -> None:
    a, b = os.urandom(3_000_001), os.urandom(7_654_321)
    assert join(crc32c(a), crc32c(b), len(b)) == crc32c(a + b)
    assert join(crc32c(b"x"), crc32c(bytes(50_000_001)), 50_000_001) == crc32c(
        b"x" + bytes(50_000_001)
    )
