"""The vectors of sessions that are none, and of members that are not there or of another kind."""

from __future__ import annotations

from typing import Any

from session_case import (
    ADAPTER,
    FULL,
    MEDIA,
    REMOVED,
    SessionCase,
    changed,
    encoded,
    group,
    hashes,
    invalid,
    layer,
    session,
    shard,
)
from vector_builder import File

IDS, VALUES = session()["token_ids"], session()["hashes"]["values"]
MEMBERS = {
    **{key: key for key in FULL},
    **{f"hashes-{key}": f"hashes/{key}" for key in FULL["hashes"]},
    **{f"group-{key}": f"groups/1/{key}" for key in group()},
    **{f"layer-{key}": f"layers/b.0/{key}" for key in layer()},
    **{f"adapter-{key}": f"adapter/{key}" for key in ADAPTER},
    **{f"media-{key}": f"media/1/{key}" for key in MEDIA[0]},
}
"""The name in a vector, and the path, of each member in the tables."""
NULLABLE = {"adapter", "salt_sha256", "group-window"}
ELEMENTS = {
    "element-groups": "groups/1",
    "element-group-layers": "groups/0/layers/1",
    "element-layers": "layers/b.0",
    "element-shape": "layers/b.0/shape/1",
    "element-order": "layers/b.0/order/1",
    "element-media": "media/1",
}


def _but(*changes: tuple[str, Any]) -> File:
    """Make the file of a session with everything, but for changes; its tensors are not changed."""
    return shard(changed(*changes, base=FULL))


def _value(path: str) -> Any:
    found: Any = FULL
    for key in path.split("/"):
        found = found[int(key) if key.isdigit() else key]
    return found


def _odd_types() -> dict[str, tuple[str, File]]:
    """Make a file for each member and each kind of element, with other types than its own."""
    found = {}
    for name, path in (MEMBERS | ELEMENTS).items():
        own = _value(path)
        odds: dict[str, Any] = {"boolean": True, "null": None, "array": [], "object": {}}
        odds |= {"string": "1", "number": 1}
        own_names = {str: "string", int: "number", list: "array", dict: "object"}
        del odds[own_names.get(type(own), "null")]
        if name in NULLABLE or name == "element-shape":
            odds.pop("null", None)
        for word in _some(odds, name):
            found[f"{name}-{word}"] = (f"{path} is of type {word}", _but((path, odds[word])))
    return found


def _some(odds: dict[str, Any], name: str) -> list[str]:
    """Choose two types for each, others for others: all would be many files of one mistake."""
    words = sorted(odds)
    at = sum(name.encode()) % len(words)
    chosen = {words[at], words[(at + 2) % len(words)]}
    return sorted(chosen | ({"boolean"} & odds.keys()))


CASES: list[SessionCase] = [
    *invalid(
        "KV-1",
        "session-missing",
        {
            "kind": ("kind is weights", shard(FULL, members={"kind": "weights"})),
            "kind-case": ("kind is KV", shard(FULL, members={"kind": "KV"})),
            "kind-longer": ("kind is kv and a space", shard(FULL, members={"kind": "kv "})),
            "kind-empty": ("kind is empty", shard(FULL, members={"kind": ""})),
            "member": ("metadata is empty", shard(FULL, metadata={})),
            "elsewhere": (
                "the session is a member of the manifest itself",
                shard(FULL, metadata={}, members={"session": FULL}),
            ),
            "deeper": (
                "the session is deeper in metadata",
                shard(None, metadata={"thaw": {"session": FULL}}),
            ),
            "case": ("the member is called Session", shard(None, metadata={"Session": FULL})),
            "null": ("the session is null", shard(None)),
            "array": ("the session is in an array", shard([FULL])),
            "string": ("the session is a string", shard("session")),
            "boolean": ("the session is true", shard(True)),
        },
    ),
    *invalid(
        "KV-2",
        "session-version",
        {
            "0": ("major is 0", _but(("major", 0))),
            "2": ("major is 2", _but(("major", 2))),
            "negative": ("major is -1", _but(("major", -1))),
            "257": ("major is 1 in its lowest byte", _but(("major", 257))),
            "members": (
                "major is 2, and other members and types than in 1",
                shard({"major": 2, "groups": 1}),
            ),
        },
    ),
    *invalid(
        "KV-5",
        "session-missing-member",
        {name: (f"{path} is not there", _but((path, REMOVED))) for name, path in MEMBERS.items()},
    ),
    *invalid(
        "KV-5",
        "session-missing-member",
        {
            "all": ("the session is empty", shard({})),
            "first-group": (
                "the first group lacks its window, and the second one has it",
                _but(("groups/0/window", REMOVED)),
            ),
            "first-media": (
                "the first of the media lacks its length",
                _but(("media/0/length", REMOVED)),
            ),
            "case": (
                "Fingerprint in place of fingerprint",
                _but(("fingerprint", REMOVED), ("Fingerprint", "00" * 32)),
            ),
        },
    ),
    *invalid("KV-6", "session-member-type", _odd_types()),
    *invalid(
        "KV-7",
        "session-base64",
        {
            "no-padding": (
                "hashes' values without the marks at their end",
                _but(
                    ("hashes", hashes(2, 16, algorithm="x", values=encoded(bytes(32)).rstrip("=")))
                ),
            ),
            "padding-short": (
                "one mark in place of two",
                _but(
                    ("hashes", hashes(2, 14, algorithm="x", values=encoded(bytes(28))[:-1])),
                ),
            ),
            "padding-long": ("a mark too many", _but(("token_ids", IDS + "="))),
            "padding-four": ("four marks too many", _but(("token_ids", IDS + "===="))),
            "padding-alone": ("nothing but marks", _but(("token_ids", "===="))),
            "padding-inside": ("a mark amid the tokens", _but(("token_ids", "AA==" + IDS))),
            "bits": (
                "bits of the last character that belong to no byte",
                _but(("hashes", hashes(2, 16, algorithm="x", values="A" * 42 + "B="))),
            ),
            "bits-two": (
                "bits of the last character, before two marks",
                _but(("hashes", hashes(2, 14, algorithm="x", values="A" * 37 + "P=="))),
            ),
            "line-end": ("a line end after the tokens", _but(("token_ids", IDS + "\n"))),
            "lines": (
                "a line end amid the tokens",
                _but(("token_ids", IDS[:76] + "\n" + IDS[76:])),
            ),
            "space": ("a space before the tokens", _but(("token_ids", " " + IDS))),
            "url": ("the alphabet for URLs", _but(("hashes/values", VALUES[:-4] + "-_A="))),
            "url-minus": ("a minus in the tokens", _but(("token_ids", "-" + IDS[1:]))),
            "unicode": ("a letter that is not ASCII", _but(("token_ids", "\u00e4" + IDS[1:]))),
            "wide": ("a full-width letter A", _but(("token_ids", "\uff21" + IDS[1:]))),
            "nul": ("a NUL after the tokens", _but(("token_ids", IDS + "\0"))),
            "length": ("one character too few for whole bytes", _but(("token_ids", IDS[:-3]))),
        },
    ),
    *invalid(
        "KV-8",
        "session-digits",
        {
            "fingerprint-upper": (
                "the fingerprint in upper case",
                _but(("fingerprint", "0F" * 32)),
            ),
            "fingerprint-short": ("63 digits", _but(("fingerprint", "0" * 63))),
            "fingerprint-long": ("65 digits", _but(("fingerprint", "0" * 65))),
            "fingerprint-bytes": ("66 digits", _but(("fingerprint", "00" * 33))),
            "fingerprint-empty": ("no digits", _but(("fingerprint", ""))),
            "fingerprint-letter": ("a g among the digits", _but(("fingerprint", "g" + "0" * 63))),
            "fingerprint-line-end": (
                "a line end after the digits",
                _but(("fingerprint", "0" * 64 + "\n")),
            ),
            "fingerprint-prefix": ("digits after 0x", _but(("fingerprint", "0x" + "0" * 62))),
            "fingerprint-script": (
                "digits of another script",
                _but(("fingerprint", "\u0660" * 64)),
            ),
            "salt-empty": ("no digits of a salt", _but(("salt_sha256", ""))),
            "salt-upper": ("a salt's digits in upper case", _but(("salt_sha256", "A" * 64))),
            "adapter-short": ("32 digits of an adapter", _but(("adapter/sha256", "0" * 32))),
            "adapter-upper": (
                "an adapter's digits in upper case",
                _but(("adapter/sha256", "AB" * 32)),
            ),
            "seed-empty": ("an empty seed", _but(("hashes/seed", ""))),
            "seed-odd": ("a seed of three digits", _but(("hashes/seed", "abc"))),
            "seed-upper": ("a seed in upper case", _but(("hashes/seed", "AB"))),
            "seed-spaces": ("a seed with a space between bytes", _but(("hashes/seed", "ab cd"))),
            "seed-letters": ("a seed of other letters", _but(("hashes/seed", "seed"))),
        },
    ),
]
