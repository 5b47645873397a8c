"""The invalid vectors of the superblock: magic, version, checksum, features and sizes."""

from __future__ import annotations

import struct
import zlib

from vector_builder import MAGIC, Bytes, File, crc32c
from vector_case import Case, Content, Variants, empty, invalid, plain


def _cut(nbytes: int) -> Bytes:
    return lambda data: data[:nbytes]


def _magic(magic: bytes) -> File:
    return plain(ending=lambda data: magic + data[len(MAGIC) :])


def _flip(at: int, data: bytes) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _flipped(at: int) -> File:
    return plain(ending=lambda data: _flip(at, data))


def _resealed(data: bytes, crc: bytes) -> bytes:
    return data[:4092] + crc + data[4096:]


def _major(value: int, **head: int) -> File:
    return plain(head={"major": value} | head)


def _features(value: int) -> tuple[str, Content]:
    return f"required features {value:#x}", plain(head={"required_features": value})


def _chunk(value: int) -> tuple[str, Content]:
    return f"chunks of {value} bytes", plain(head={"chunk_nbytes": value})


TRUNCATED = {
    f"{nbytes:04}": (f"the first {nbytes} bytes of a file", plain(ending=_cut(nbytes)))
    for nbytes in (0, 1, 7, 8, 9, 100, 4092, 4095)
}

MANGLED: Variants = {
    "lf": (
        "line ends CR LF turned into LF",
        plain(ending=lambda data: data.replace(b"\r\n", b"\n")),
    ),
    "crlf": (
        "line ends LF turned into CR LF",
        plain(ending=lambda data: data.replace(b"\n", b"\r\n")),
    ),
    "cr": ("LF dropped", plain(ending=lambda data: data.replace(b"\n", b"", 1))),
    "seven-bits": ("the high bit of the first byte lost", _magic(b"\x09THAW\r\n\x1a")),
    "latin-1": (
        "taken for Latin-1 and written as UTF-8",
        plain(ending=lambda data: data.decode("latin-1").encode()),
    ),
    "end-of-file": ("the end-of-file character replaced", _magic(b"\x89THAW\r\n\0")),
    "lower-case": ("a name in lower case", _magic(b"\x89thaw\r\n\x1a")),
    "shifted": ("a byte before the file", plain(ending=lambda data: b"\0" + data)),
    "safetensors": (
        "a safetensors header",
        struct.pack("<Q", 8192) + b'{"__metadata__":{}}'.ljust(8192),
    ),
    "unsealed": (
        "complete but for the superblock, which is still zeros",
        plain(ending=lambda data: bytes(4096) + data[4096:]),
    ),
    "unsealed-short": ("an interrupted file with less than a superblock of zeros", bytes(1000)),
    "text-short": ("a short file that is something else", b"hello\n"),
    "second-byte-short": ("two bytes, the second of which is not the magic's", b"\x89P"),
}

FOREIGN: Variants = {
    "alone": ("four bytes", b"THAW"),
    "short": ("a short file", b"THAW\x01\0\0\0"),
    "long": ("a long file", b"THAW" + struct.pack("<IQ", 1, 4) + bytes(8192)),
    "superblock": (
        "a whole file behind it",
        plain(ending=lambda data: b"THAW" + data[4:]),
    ),
}

CHECKSUMS: Variants = {
    "id": ("a bit of the snapshot id flipped", _flipped(48)),
    "reserved": ("a bit of the reserved bytes flipped", _flipped(64)),
    "table": ("a bit of the section table flipped", _flipped(264)),
    "unused-entry": ("a bit of an unused entry flipped", _flipped(2303)),
    "last-byte": ("a bit of the byte before the checksum flipped", _flipped(4091)),
    "minor": ("a bit of the minor version flipped", _flipped(10)),
    "stored": ("a bit of the checksum flipped", _flipped(4095)),
    "zero": ("a checksum of zero", plain(head={"superblock_crc32c": 0})),
    "big-endian": (
        "the checksum in big-endian order",
        plain(ending=lambda data: _resealed(data, data[4092:4096][::-1])),
    ),
    "crc32": (
        "the CRC-32 of zip",
        plain(ending=lambda data: _resealed(data, struct.pack("<I", zlib.crc32(data[:4092])))),
    ),
    "whole": (
        "the checksum of 4096 bytes, its own taken for zero",
        plain(
            ending=lambda data: _resealed(data, struct.pack("<I", crc32c(data[:4092] + bytes(4))))
        ),
    ),
}

CASES: list[Case] = [
    *invalid("SB-1", "truncated-superblock", TRUNCATED),
    *invalid("SB-2", "bad-magic", {k: v for k, v in MANGLED.items() if "unsealed" not in k}),
    *invalid(
        "SB-2 SEAL-2 SEAL-1", "bad-magic", {k: v for k, v in MANGLED.items() if "unsealed" in k}
    ),
    *invalid("SB-3", "foreign-magic", FOREIGN),
    *invalid(
        "SB-4",
        "unknown-major-version",
        {
            "0": ("major version 0", _major(0)),
            "2": ("major version 2", _major(2)),
            "256": ("major version 1 in big-endian order", _major(256)),
            "65535": ("the greatest major version", _major(65535)),
            "2-checksum": (
                "major version 2, its checksum elsewhere",
                _major(2, superblock_crc32c=0),
            ),
            "2-features": (
                "major version 2 with unknown features and sizes",
                _major(2, required_features=1, file_nbytes=1, chunk_nbytes=3, section_count=99),
            ),
        },
    ),
    *invalid("SB-6", "superblock-checksum", CHECKSUMS),
    *invalid(
        "SB-7",
        "unknown-required-feature",
        {f"bit-{bit}": _features(1 << bit) for bit in (0, 31, 32, 63)}
        | {"all": _features(2**64 - 1)},
    ),
    *invalid(
        "SB-10",
        "truncated-file",
        {
            "by-1": ("cut by one byte", plain(ending=lambda data: data[:-1])),
            "superblock-left": ("cut behind the superblock", plain(ending=_cut(4096))),
            "manifest-left": ("cut in the manifest", plain(ending=_cut(4100))),
            "padding": (
                "cut in the padding after the last section",
                empty(file_nbytes=9000, ending=lambda data: data[:-1]),
            ),
            "claim": ("a claim of one byte more", plain(head={"file_nbytes": 8217})),
            "claim-huge": ("a claim of 2^64 - 1 bytes", plain(head={"file_nbytes": 2**64 - 1})),
        },
    ),
    *invalid(
        "SB-11",
        "trailing-bytes",
        {
            "1": ("one byte more", plain(ending=lambda data: data + b"\0")),
            "4096": ("4096 zeros more", plain(ending=lambda data: data + bytes(4096))),
            "line-end": ("a line end more", plain(ending=lambda data: data + b"\n")),
            "claim": ("a claim of one byte less", plain(head={"file_nbytes": 8215})),
            "claim-zero": ("a claim of no bytes", plain(head={"file_nbytes": 0})),
        },
    ),
    *invalid(
        "SB-12",
        "bad-chunk-size",
        {
            str(value): _chunk(value)
            for value in (0, 1, 512, 2048, 4095, 4097, 6144, 12288, 2**31, 2**63, 2**64 - 1)
        },
    ),
    *invalid(
        "SB-13",
        "bad-section-count",
        {
            str(value): (f"{value} sections", plain(head={"section_count": value}))
            for value in (65, 119, 65536 + 3, 2**32 - 1)
        },
    ),
]
