"""What a snapshot says of its session is read as it was written, or refused by rule."""

import base64
import hashlib
import struct
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from thaw_format import FormatError, Snapshot, Storage, TensorSpec

from thaw.vllm.kv.record import (
    Adapter,
    Group,
    Hashes,
    Layer,
    Media,
    Session,
    check_ranks,
)
from thaw.vllm.kv.rules import SESSION_RULES

TOKENS = 64
LAYER = Layer((None, 2, 16, 8), (0, 1, 2, 3), 1, "FLASH_ATTN", "auto")
PAIRED = Layer((2, None, 8, 2, 4), (0, 1, 3, 2, 4), 2, "TRITON_ATTN", "fp8")
SESSION = Session(
    token_ids=struct.pack(f"<{TOKENS}I", *range(7, 7 + TOKENS)),
    hashes=Hashes("sha256", bytes(range(32)), 16, hashlib.shake_128(b"hashes").digest(128)),
    groups=(
        Group("full", 16, None, 0, 4, ("a", "b")),
        Group("sliding-window", 16, 20, 2, 2, ("c",)),
        Group("full", 32, None, 0, 2, ()),
    ),
    layers={"a": LAYER, "b": LAYER, "c": PAIRED},
    fingerprint="0f" * 32,
    engine={"vllm": "0.26.0", "tp": 1, "more": {"rope": None}},
    adapter=Adapter("alice", "ab" * 32),
    salt_sha256="cd" * 32,
    media=(Media("x", 0, 12), Media("y", 63, 500)),
)
SHAPES = {"a": (4, 2, 16, 8), "b": (4, 2, 16, 8), "c": (4, 2, 2, 8, 4)}
Change = Callable[[dict[str, Any]], object]


def strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    found, step = [], 1
    for size in reversed(shape):
        found.append(step)
        step *= size
    return tuple(reversed(found))


def tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec("bfloat16", shape, strides(shape), index, 0)
        for index, (name, shape) in enumerate(shapes.items())
    }


def snapshot(session: Session | dict[str, Any] = SESSION, **members: Any) -> Snapshot:
    metadata = session.record() if isinstance(session, Session) else {"session": session}
    plain: dict[str, Any] = {
        "path": Path("alice.thaw"),
        "format": "thaw",
        "sources": (),
        "storages": tuple(Storage(0, 4096) for _ in range(3)),
        "tensors": tensors(SHAPES),
        "digests": (),
        "kind": "kv",
        "metadata": metadata,
    }
    return Snapshot(**(plain | members))


def said(change: Change) -> dict[str, Any]:
    session: Any = deepcopy(SESSION.record()["session"])
    change(session)
    return dict(session)


def put(path: str, value: object) -> Change:
    *way, last = (int(key) if key.isdigit() else key for key in path.split("."))

    def change(session: Any) -> None:
        for key in way:
            session = session[key]
        if value is ...:
            del session[last]
        else:
            session[last] = value

    return change


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def fails(given: Snapshot) -> str:
    with pytest.raises(FormatError) as error:
        Session.of(given)
    assert error.value.path == "alice.thaw"
    assert error.value.rule == SESSION_RULES[error.value.code]
    assert "\n" not in str(error.value)
    return error.value.code


def test_what_was_said_is_read_again() -> None:
    assert Session.of(snapshot()) == SESSION
    bare = replace(SESSION, adapter=None, salt_sha256=None, media=())
    assert Session.of(snapshot(bare)) == bare


def test_unknown_members_and_minor_versions_are_ignored() -> None:
    def change(session: dict[str, Any]) -> None:
        session |= {"minor": 7, "more": []}
        for each in (session["hashes"], session["groups"][0], session["layers"]["a"]):
            each["more"] = 1.5
        session["adapter"]["more"] = session["media"][0]["more"] = None

    assert Session.of(snapshot(said(change))) == SESSION


def test_strides_of_single_rows_do_not_matter() -> None:
    layer = Layer((None, 1, 16, 8), (0, 1, 2, 3), 1, "FLASH_ATTN", "auto")
    session = replace(SESSION, layers={"a": layer, "b": layer, "c": PAIRED})
    found = tensors(SHAPES | {"a": (4, 1, 16, 8), "b": (4, 1, 16, 8)})
    found["a"] = replace(found["a"], stride=(128, 77, 8, 1))
    assert Session.of(snapshot(session, tensors=found)) == session


@pytest.mark.parametrize("kind", ["weights", "KV", ""])
def test_other_kinds_hold_no_session(kind: str) -> None:
    assert fails(snapshot(kind=kind)) == "session-missing"


@pytest.mark.parametrize("metadata", [{}, {"session": None}, {"session": []}, {"Session": {}}])
def test_metadata_without_a_session(metadata: dict[str, Any]) -> None:
    assert fails(snapshot(metadata=metadata)) == "session-missing"


@pytest.mark.parametrize("major", [0, 2, -1])
def test_other_versions_say_nothing_that_is_known(major: int) -> None:
    assert fails(snapshot({"major": major, "groups": 1})) == "session-version"


def members(value: Any, way: str = "") -> list[str]:
    found = []
    if isinstance(value, dict):
        for key, each in value.items():
            found += [f"{way}{key}", *members(each, f"{way}{key}.")]
    elif isinstance(value, list):
        for index, each in enumerate(value):
            found += members(each, f"{way}{index}.")
    return found


FREE = ("engine.", "layers.a", "layers.b", "layers.c")
MEMBERS = [
    each
    for each in members(SESSION.record()["session"])
    if not each.startswith("engine.") and each not in FREE
]


@pytest.mark.parametrize("path", MEMBERS)
def test_every_member_is_needed_and_has_a_type(path: str) -> None:
    assert fails(snapshot(said(put(path, ...)))) == "session-missing-member"
    found: Any = SESSION.record()["session"]
    for key in path.split("."):
        found = found[int(key) if key.isdigit() else key]
    odds: tuple[Any, ...] = (True, 1.5, [[]], {"a": 1})
    for odd in (odd for odd in odds if type(odd) is not type(found) or odd == [[]]):
        assert fails(snapshot(said(put(path, odd)))) == "session-member-type", odd


@pytest.mark.parametrize(
    "path",
    [
        "groups.0.layers.0",
        "layers.a.shape.1",
        "layers.a.order.0",
        "groups.0",
        "media.0",
        "layers.a",
    ],
)
def test_elements_have_a_type(path: str) -> None:
    odd: tuple[Any, ...] = (True, 1.5, [])
    for each in odd:
        assert fails(snapshot(said(put(path, each)))) == "session-member-type", each


IDS = SESSION.token_ids
VALUES = SESSION.hashes.values
CASES: list[tuple[str, str, Any]] = [
    *(("session-base64", "token_ids", each) for each in ("A", "A=", "AA", "AAAA\n", "AAA", "*")),
    *(("session-base64", "hashes.values", each) for each in ("AAB=", "AB==", "=", "é", "AAAA====")),
    ("session-base64", "token_ids", text(IDS) + "="),
    ("session-base64", "token_ids", text(IDS).replace("A", "A\n", 1)),
    ("session-base64", "token_ids", " " + text(IDS)),
    ("session-base64", "token_ids", base64.urlsafe_b64encode(b"\xff\xef\xbe" * 4).decode()),
    *(("session-digits", "fingerprint", each) for each in ("", "0F" * 32, "0f" * 31, "0f" * 33)),
    ("session-digits", "fingerprint", "0f" * 32 + "\n"),
    ("session-digits", "fingerprint", "\u0660" * 64),
    ("session-digits", "adapter.sha256", "g" * 64),
    ("session-digits", "salt_sha256", ""),
    *(("session-digits", "hashes.seed", each) for each in ("", "0", "000", "AB", "0x", "00 ")),
    ("session-tokens", "token_ids", ""),
    ("session-tokens", "token_ids", text(IDS[:-1])),
    ("session-block-tokens", "token_ids", text(IDS[:-4])),
    *(("session-block-tokens", "hashes.block_tokens", each) for each in (0, -16, 48, 128)),
    *(("session-block-tokens", "groups.2.block_tokens", each) for each in (0, -32, 48, 128)),
    *(("session-hashes", "hashes.values", text(each)) for each in (b"", VALUES[:-1], VALUES[:64])),
    ("session-hashes", "hashes.values", text(VALUES + VALUES)),
    ("session-hashes", "hashes.block_tokens", 32),
    ("session-group", "groups.0.kind", "chunked"),
    ("session-group", "groups.0.window", 64),
    ("session-group", "groups.1.window", None),
    ("session-group", "groups.1.window", 0),
    ("session-group", "groups.1.kind", "full"),
    *(("session-blocks", "groups.0.blocks", each) for each in (0, -1, 3, 5)),
    *(("session-blocks", "groups.1.first_block", each) for each in (-1, 1, 3)),
    ("session-window", "groups.1.window", 34),
    ("session-window", "groups.1.window", 1000),
    ("session-layers", "groups.0.layers", ["a"]),
    ("session-layers", "groups.0.layers", ["a", "b", "b"]),
    ("session-layers", "groups.0.layers", ["a", "b", "c"]),
    ("session-layers", "groups.0.layers", ["a", "b", "d"]),
    ("session-layers", "layers.c", ...),
    ("session-layers", "groups", []),
    ("session-layer", "layers.a.shape", [4, 2, 16, 8]),
    ("session-layer", "layers.a.shape", [None, None, 16, 8]),
    ("session-layer", "layers.a.shape", [None, 0, 16, 8]),
    ("session-layer", "layers.a.shape", [None, -2, 16, 8]),
    ("session-layer", "layers.a.shape", []),
    *(("session-layer", "layers.a.order", each) for each in ([], [0, 1, 2], [0, 1, 2, 2])),
    *(("session-layer", "layers.a.order", each) for each in ([1, 2, 3, 4], [0, 1, 2, 3, 4])),
    *(("session-layer", "layers.a.rows_per_block", each) for each in (0, -1)),
    *(("session-media", "media.0.offset", each) for each in (-1, 64)),
    *(("session-media", "media.1.offset", each) for each in (-1, 64)),
    *(("session-media", "media.1.length", each) for each in (0, -1)),
    ("session-tensor-shape", "layers.a.rows_per_block", 2),
    ("session-tensor-shape", "layers.c.order", [0, 1, 2, 3, 4]),
]


@pytest.mark.parametrize(("code", "path", "value"), CASES)
def test_values_that_break_a_rule(code: str, path: str, value: object) -> None:
    assert fails(snapshot(said(put(path, value)))) == code


def test_media_are_in_order() -> None:
    media = [{"identifier": "x", "offset": at, "length": 1} for at in (5, 4)]
    assert fails(snapshot(said(put("media", media)))) == "session-media"
    media[1]["offset"] = 5
    Session.of(snapshot(said(put("media", media))))


def test_a_session_has_layers() -> None:
    def change(session: dict[str, Any]) -> None:
        session["layers"] = {}
        for each in session["groups"]:
            each["layers"] = []

    assert fails(snapshot(said(change), tensors={}, storages=())) == "session-layers"


@pytest.mark.parametrize(("window", "first"), [(33, 2), (1, 3), (2, 3), (17, 3), (65, 0), (999, 0)])
def test_windows_that_are_covered(window: int, first: int) -> None:
    group = Group("sliding-window", 16, window, first, 4 - first, ("c",))
    session = replace(SESSION, groups=(SESSION.groups[0], group))
    found = tensors(SHAPES | {"c": (2 * group.blocks, 2, 2, 8, 4)})
    assert Session.of(snapshot(session, tensors=found)) == session


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("session-tensors", {"a": None}),
        ("session-tensors", {"d": TensorSpec("uint8", (), (), 0, 0)}),
        ("session-tensor-shape", {"a": TensorSpec("uint8", (4, 16, 2, 8), (256, 16, 8, 1), 0, 0)}),
        ("session-tensor-shape", {"a": TensorSpec("uint8", (4, 2, 16), (32, 16, 1), 0, 0)}),
        ("session-tensor-stride", {"a": TensorSpec("uint8", SHAPES["a"], (256, 8, 16, 1), 0, 0)}),
        ("session-tensor-stride", {"a": TensorSpec("uint8", SHAPES["a"], (512, 128, 8, 1), 0, 0)}),
        ("session-storage", {"a": replace(tensors(SHAPES)["a"], storage=1, offset=2048)}),
    ],
)
def test_tensors_are_the_layers(code: str, changes: dict[str, TensorSpec | None]) -> None:
    found = {name: spec for name, spec in (tensors(SHAPES) | changes).items() if spec}
    assert fails(snapshot(tensors=found)) == code


def test_ranks_agree() -> None:
    groups = tuple(replace(each, layers=()) for each in SESSION.groups)
    layers = {"z": LAYER}
    other = replace(SESSION, groups=groups, layers=layers, fingerprint="00" * 32, engine={})
    check_ranks([SESSION, other, SESSION])


@pytest.mark.parametrize(
    "other",
    [
        {"token_ids": IDS[:-1] + b"\1"},
        {"hashes": replace(SESSION.hashes, seed=bytes(32))},
        {"hashes": replace(SESSION.hashes, values=bytes(128))},
        {"hashes": replace(SESSION.hashes, algorithm="sha256_cbor")},
        {"groups": SESSION.groups[:2]},
        {"groups": SESSION.groups[::-1]},
        {"groups": (*SESSION.groups[:2], replace(SESSION.groups[2], block_tokens=64, blocks=1))},
        {"adapter": None},
        {"adapter": Adapter("bob", "ab" * 32)},
        {"salt_sha256": None},
        {"media": SESSION.media[:1]},
    ],
)
def test_ranks_that_do_not_agree(other: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="rank 2") as error:
        check_ranks([SESSION, SESSION, replace(SESSION, **other)])
    assert (error.value.code, error.value.rule) == ("session-ranks", "KV-22")


def test_every_code_is_tried() -> None:
    tried = {code for code, *_ in CASES} | {"session-missing", "session-version", "session-ranks"}
    tried |= {"session-missing-member", "session-member-type"}
    tried |= {"session-tensors", "session-tensor-stride", "session-storage"}
    assert tried == SESSION_RULES.keys()


def test_a_long_session_is_read_without_a_step_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = 1 << 20
    hashes = replace(SESSION.hashes, values=bytes(32 * tokens // 16))
    groups = (Group("full", 16, None, 0, tokens // 16, ("a",)),)
    long = replace(
        SESSION, token_ids=bytes(4 * tokens), hashes=hashes, groups=groups, layers={"a": LAYER}
    )
    given = snapshot(long, tensors=tensors({"a": (tokens // 16, 2, 16, 8)}))
    steps = 0

    def count(*_: object) -> Any:
        nonlocal steps
        steps += 1
        return count

    sys.settrace(count)
    try:
        found = Session.of(given)
    finally:
        sys.settrace(None)
    assert found == long
    assert steps < 2000


def test_reading_needs_neither_torch_nor_vllm() -> None:
    code = "import sys, thaw.vllm.kv.record; print({'torch', 'vllm'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
