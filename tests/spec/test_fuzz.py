"""Mutations of vectors through both readers: no crash, no hang, no wrong byte accepted, no bloat.

A mutation that leaves the checksums alone has to be rejected, wherever it falls. One whose
checksums are made right again reaches the deeper checks: there both readers have to agree.
"""

import importlib.util
import io
import json
import os
import random
import struct
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from thaw_format import RULES, FormatError, dtype_name, open_shard, verify_shard
from thaw_format.checksum import crc32c

ROOT = Path(__file__).parents[2]
MUTATIONS, SHARES = 100_000, 8
MAX_NBYTES = 20_000
PHASES = ("SB", "SEC", "JSON", "MAN", "STO", "TEN", "PAY", "HASH")


def load_reader() -> ModuleType:
    spec = importlib.util.spec_from_file_location("spec_reader", ROOT / "spec" / "reader.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["spec_reader"] = module
    spec.loader.exec_module(module)
    return module


reader = load_reader()


def seeds(kind: str) -> list[bytes]:
    paths = sorted((ROOT / "spec" / "vectors" / kind).glob("*.thaw"))
    files = [path.read_bytes() for path in paths if path.is_file()]
    return [data for data in files if 4096 < len(data) <= MAX_NBYTES]


Outcome = tuple[str, Any]


def ours(path: Path) -> Outcome:
    try:
        with open_shard(path) as shard:
            verify_shard(shard)
            rows = {
                name: [dtype_name(t.dtype), list(t.shape), list(t.stride), t.storage, t.offset]
                for name, t in shard.tensors.items()
            }
            return "accepted", rows
    except FormatError as error:
        assert error.code in RULES
        return "rejected", RULES[error.code]


def theirs(data: bytes) -> Outcome:
    try:
        shard = reader.open_shard(io.BytesIO(data), len(data))
        reader.verify_payload(shard)
        known = ("dtype", "shape", "stride", "storage", "offset")
        tensors = shard.manifest["tensors"]
        return "accepted", {name: [t[key] for key in known] for name, t in tensors.items()}
    except reader.Error as error:
        return "rejected", error.rule


def phase(rule: str) -> int:
    """Number the phase of a rule (specification, section 3)."""
    if rule in ("SB-1", "SB-2", "SB-3", "SB-4"):
        return 1
    if rule in ("SEC-11", "SEC-12"):
        return 4
    if rule == "SEC-13":
        return 7
    return (2, 3, 5, 6, 6, 6, 7, 7)[PHASES.index(rule.rpartition("-")[0])]


class Mutator:
    """Draws damaged copies of files."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.valid, self.invalid = seeds("valid"), seeds("invalid")

    def damaged(self, *, repair: bool) -> tuple[bytes, bytes]:
        # A change to an invalid file may happen to mend it.
        original = self.draw.choice(self.valid + self.invalid if repair else self.valid)
        data = bytearray(original)
        for _ in range(self.draw.choice((1, 1, 1, 2, 5))):
            self._damage(data)
        return original, bytes(data)

    def _place(self, data: bytearray) -> int:
        """Prefer where headers are."""
        limit = self.draw.choice((128, 512, 4096, 6000, len(data)))
        return self.draw.randrange(min(limit, len(data))) if data else 0

    def _damage(self, data: bytearray) -> None:
        at, kind = self._place(data), self.draw.randrange(8)
        if kind == 0 and data:
            data[at] ^= 1 << self.draw.randrange(8)
        elif kind == 1 and data:
            data[at] = self.draw.randrange(256)
        elif kind == 2:
            del data[self.draw.randrange(len(data) + 1) :]
        elif kind == 3:
            data[at:at] = self.draw.randbytes(self.draw.choice((1, 8, 512)))
        elif kind == 4:
            del data[at : at + self.draw.choice((1, 4, 512))]
        elif kind == 5:
            value = self.draw.choice((0, 1, 2**32 - 1, 2**63, 2**64 - 1, self.draw.getrandbits(64)))
            data[at : at + 8] = struct.pack("<Q", value)[: len(data) - at]
        elif kind == 6:
            other = self._place(data)
            data[at : at + 16] = data[other : other + 16]
        else:
            self._damage_number(data)

    def _damage_number(self, data: bytearray) -> None:
        """Change a digit or a bracket of the manifest."""
        places = [i for i in range(4096, min(len(data), 8192)) if data[i] in b'0123456789[]{},:"']
        if places:
            data[self.draw.choice(places)] = self.draw.choice(b'0123456789[]{},:"-.e\\u')

    def repaired(self, data: bytes) -> bytes:
        """Make sizes and checksums right again, as far as the section table allows."""
        if len(data) < 4096:
            return data
        fixed = bytearray(data)
        struct.pack_into("<Q", fixed, 32, len(fixed))
        (count,) = struct.unpack_from("<I", fixed, 12)
        for index in range(min(count, 64)):
            at = 256 + 32 * index
            kind, _, offset, nbytes = struct.unpack_from("<IIQQ", fixed, at)
            if kind != 3 and offset >= 4096 and offset + nbytes <= len(fixed):
                crc = crc32c(bytes(fixed[offset : offset + nbytes]))
                struct.pack_into("<I", fixed, at + 24, crc)
        struct.pack_into("<I", fixed, 4092, crc32c(bytes(fixed[:4092])))
        return bytes(fixed)


def peak_nbytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_mutations(share: int, tmp_path: Path) -> None:
    folder = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else tmp_path
    path = folder / f"thaw-fuzz-{os.getpid()}-{share}"
    mutator, slowest, agreed = Mutator(share), 0.0, 0
    before = peak_nbytes()
    try:
        for number in range(MUTATIONS // SHARES):
            repair = number % 2 == 1
            original, data = mutator.damaged(repair=repair)
            if repair:
                data = mutator.repaired(data)
            path.write_bytes(data)
            began = time.perf_counter()
            one, two = ours(path), theirs(data)
            slowest = max(slowest, time.perf_counter() - began)
            if not repair:
                # Two changes may undo each other.
                assert data == original or one[0] == two[0] == "rejected", explain(data, one, two)
            assert one[0] == two[0], explain(data, one, two)
            if one[0] == "accepted":
                assert one[1] == two[1], explain(data, one, two)
                agreed += 1
            else:
                assert phase(one[1]) == phase(two[1]), explain(data, one, two)
    finally:
        path.unlink(missing_ok=True)
    assert agreed > 0, (
        "no repaired mutation got past both readers: the deep checks were not reached"
    )
    assert slowest < 20
    assert peak_nbytes() - before < 256 << 20


def explain(data: bytes, one: Outcome, two: Outcome) -> str:
    place = Path(os.environ.get("TMPDIR", "/tmp"), "thaw-fuzz-failure.thaw")
    place.write_bytes(data)
    return json.dumps({"file": str(place), "thaw_format": one, "reader": two})[:2000]
