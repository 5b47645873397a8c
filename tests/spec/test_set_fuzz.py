"""Mutations of an index through both readers: they find the same, code by code."""

import importlib
import random
import shutil
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from thaw_format import FormatError, open_ranks

SPEC = Path(__file__).parents[2] / "spec"
MUTATIONS = 6_000
PIECES = (
    *(b'"crc32c":"', b'"crc32c"', b"{", b"}", b"[", b"]", b",", b":", b'"', b"1", b"0", b"-0"),
    *(b"null", b"true", b"1.5", b"\\", b" ", b"\n", b"a", b"F", b"\xff", rb"\u0031"),
    *(b'"required_features":["x"],', b'"required_features":[],', b'"metadata":{},'),
    *(b'"metadata":1,', b'"major":2,', rb'"x":"\ud800",'),
)


def damaged(data: bytes, draw: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        at, kind = draw.randrange(len(found)), draw.randrange(5)
        if kind == 0:
            found[at] = draw.randrange(256)
        elif kind == 1:
            found[at:at] = draw.choice(PIECES)
        elif kind == 2:
            found[at : at + 1] = draw.choice(PIECES)
        elif kind == 3:
            del found[at : at + draw.choice((1, 2, 8))]
        else:
            other = draw.randrange(len(found))
            found[at:at] = found[other : other + draw.choice((4, 10, 40))]
    return bytes(found)


def ours(folder: Path) -> str:
    try:
        shards = open_ranks(folder)
    except FormatError as error:
        return error.code
    for each in shards:
        each.close()
    return "accepted"


def theirs(reader: ModuleType, folder: Path) -> str:
    try:
        reader.open_set(str(folder))
    except reader.Error as error:
        return str(error.code)
    return "accepted"


@pytest.mark.slow
def test_mutations_of_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SPEC))
    reader, cases = importlib.import_module("reader"), importlib.import_module("vector_case")
    folder = tmp_path / "set"
    shutil.copytree(SPEC / "vectors" / "valid" / "set-places.thaw", folder)
    index = folder / "snapshot.json"
    original, draw, seen = index.read_bytes(), random.Random(0), Counter[str]()
    for number in range(MUTATIONS):
        data = damaged(original, draw)
        if number % 3:
            data = cases.sealed(data)
        index.write_bytes(data)
        one, two = ours(folder), theirs(reader, folder)
        assert one == two, data
        seen[one] += 1
    assert {"accepted", "set-bad-index", "set-checksum", "set-file-name", "set-size"} <= set(seen)
