"""How plans are cut into pieces, and the digests of chunks joined from those of their parts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from google_crc32c import value as whole_crc32c
from hypothesis import given
from hypothesis import strategies as st
from thaw_format import Chunks, Digests
from thaw_format.checksum import crc32c, host_buffer

import thaw
from thaw import Extent, Extents, ReadPlan, WritePlan
from thaw.seam.digests import join


@st.composite
def plans(draw: st.DrawFn) -> tuple[Extents, Chunks]:
    base, at, extents = draw(st.integers(0, 50)), 0, []
    for gap, nbytes in draw(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 60)))):
        at += gap
        extents.append(Extent(base + at, torch.empty(nbytes, dtype=torch.uint8)))
        at += nbytes
    chunks = Chunks(base, at + draw(st.integers(0, 30)), draw(st.integers(1, 70)))
    return Extents.of(extents), chunks


PIECE_NBYTES = st.integers(1, 90)


def wanted(extents: Extents) -> list[tuple[int, int]]:
    """List every byte of the extents: where it is in the file, and its address."""
    return [
        (extent.offset + i, extent.memory.data_ptr() + i)
        for extent in extents
        for i in range(extent.nbytes)
    ]


def given_out(found: Sequence[Any]) -> list[tuple[int, int]]:
    return [
        (part.start + i, part.address + i)
        for piece in found
        for part in piece.parts
        for i in range(part.nbytes)
    ]


def assert_in_order(found: Sequence[Any], piece_nbytes: int) -> None:
    assert all(piece.nbytes > 0 for piece in found)
    assert all(each.start // piece_nbytes == (each.end - 1) // piece_nbytes for each in found)
    assert all(a.end <= b.start for a, b in pairwise(found))
    for piece in found:
        assert all(piece.start <= p.start <= p.start + p.nbytes <= piece.end for p in piece.parts)


def assert_whole_chunks(found: Sequence[Any], chunks: Chunks, indices: Sequence[int]) -> None:
    """Check that the chunks are those expected, whole, and that they make up the pieces."""
    for piece in found:
        assert list(offsets(piece.chunk_parts)) == list(range(piece.start, piece.end))
    parts = [part for piece in found for part in piece.chunk_parts]
    assert list(dict.fromkeys(part.chunk for part in parts)) == list(indices)
    for index in indices:
        own = [part for part in parts if part.chunk == index]
        assert list(offsets(own)) == list(range(*chunks.span(index)))


def offsets(parts: Sequence[Any]) -> Iterator[int]:
    return (part.start + i for part in parts for i in range(part.nbytes))


@given(plans(), PIECE_NBYTES)
def test_pieces_of_a_read_are_the_chunks_that_extents_touch(
    plan: tuple[Extents, Chunks], piece_nbytes: int
) -> None:
    extents, chunks = plan
    digests = Digests(chunks, [0] * len(chunks))
    found = list(thaw.cut_read(ReadPlan(extents, digests), piece_nbytes))
    touched = {(at - chunks.offset) // chunks.chunk_nbytes for at, _ in wanted(extents)}
    assert_in_order(found, piece_nbytes)
    assert_whole_chunks(found, chunks, sorted(touched))
    assert given_out(found) == wanted(extents)


@given(plans(), PIECE_NBYTES)
def test_pieces_of_a_read_without_digests_are_the_extents_alone(
    plan: tuple[Extents, Chunks], piece_nbytes: int
) -> None:
    extents, _ = plan
    found = list(thaw.cut_read(ReadPlan(extents), piece_nbytes))
    assert_in_order(found, piece_nbytes)
    assert given_out(found) == wanted(extents)
    assert sum(piece.nbytes for piece in found) == sum(extent.nbytes for extent in extents)
    assert all(piece.chunk_parts == () for piece in found)


@given(plans(), PIECE_NBYTES)
def test_pieces_of_a_write_are_the_whole_payload(
    plan: tuple[Extents, Chunks], piece_nbytes: int
) -> None:
    extents, chunks = plan
    found = list(thaw.cut_write(WritePlan(extents, chunks), piece_nbytes))
    assert_in_order(found, piece_nbytes)
    assert_whole_chunks(found, chunks, range(len(chunks)))
    assert given_out(found) == wanted(extents)


def test_digests_are_joined_only_within_their_chunk() -> None:
    data = os.urandom(60)
    memory = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    chunks = Chunks(0, 60, 25)
    joiner, found = thaw.ChunkDigests(chunks), []
    for piece in thaw.cut_write(WritePlan(Extents.over([0], [memory]), chunks), 7):
        found += joiner.add(
            (index, nbytes, crc32c(host_buffer(memory[start : start + nbytes])))
            for index, start, nbytes in piece.chunk_parts
        )
    assert found == [(i, crc32c(data[slice(*chunks.span(i))])) for i in range(3)]


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
def test_digests_of_parts_join_to_that_of_the_whole(a: bytes, b: bytes, c: bytes) -> None:
    joined = join(join(whole_crc32c(a), whole_crc32c(b), len(b)), whole_crc32c(c), len(c))
    assert joined == whole_crc32c(a + b + c)


def test_digests_of_large_parts_join() -> None:
    a, b = os.urandom(3_000_001), os.urandom(7_654_321)
    assert join(whole_crc32c(a), whole_crc32c(b), len(b)) == whole_crc32c(a + b)
    assert join(whole_crc32c(b"x"), whole_crc32c(bytes(50_000_001)), 50_000_001) == whole_crc32c(
        b"x" + bytes(50_000_001)
    )
