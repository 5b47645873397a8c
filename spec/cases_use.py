"""Sessions and requests, and how many tokens of each an engine may take (section 6)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from session_case import (
    ADAPTER,
    MEDIA,
    encoded,
    group,
    hashes,
    layer,
    session,
    token_ids,
    whole,
)
from vector_builder import Object
from vector_case import Case

TOKENS = 64
SALT = "a grain"
SALT_SHA256 = hashlib.sha256(SALT.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class UseCase(Case):
    """A session, and requests that it may serve."""

    requests: Sequence[Object]

    @property
    def place(self) -> str:
        """Say where it lies below the folder of the vectors, without a suffix."""
        return f"use/{self.name}"

    def expected(self) -> Object:
        """Return the members of its JSON file."""
        return {"description": self.description, "requests": list(self.requests)}


def _request(
    description: str, tokens: int, rules: str, count: int = TOKENS, **members: Any
) -> Object:
    """Describe a request whose tokens are those of the session, and how many it may take.

    Args:
        tokens: how many an engine may take at most.
        count: how many the request has.
        members: what the request has beside them; `other` is the first token that is another.
    """
    plain: Object = {"adapter": None, "salt": None, "media": []}
    ids = bytearray(token_ids(count))
    if (at := members.pop("other", None)) is not None:
        ids[4 * at] ^= 1
    said = {"description": description, "rules": rules.split(), "token_ids": encoded(bytes(ids))}
    return said | plain | members | {"tokens": tokens}


def _case(name: str, description: str, said: Object, *requests: Object) -> UseCase:
    rules = tuple(dict.fromkeys(rule for each in requests for rule in each["rules"]))
    return UseCase(
        name=name,
        description=description,
        rules=rules,
        content=whole(said),
        requests=requests,
    )


def _session(*groups: Object, **members: Any) -> Object:
    layers = {name: layer() for each in groups for name in each["layers"]}
    plain = {"token_ids": encoded(token_ids(TOKENS)), "hashes": hashes(4), "layers": layers}
    return session(groups=list(groups), **(plain | members))


def _windowed(window: int, first: int) -> Object:
    kept = {"kind": "sliding-window", "first_block": first, "blocks": 4 - first}
    return _session(group("a", blocks=4), group("b", window=window, **kept))


def _state(first: int, *more: Object) -> Object:
    kept = {"kind": "state", "first_block": first, "blocks": 4 - first}
    return _session(group("a", blocks=4), group("s", **kept), *more)


def _media(offset: int) -> Object:
    return {"identifier": "cow", "offset": offset, "length": 5}


FULL = group("a", blocks=4)
CAT, DOG = MEDIA
CASES: list[UseCase] = [
    _case(
        "full",
        "four blocks of full attention",
        _session(FULL),
        _request("the same tokens", 64, "KV-USE-2"),
        _request("more tokens", 64, "KV-USE-2", 100),
        _request("fewer tokens, three blocks of them", 48, "KV-USE-2", 48),
        _request("a token less than three blocks", 32, "KV-USE-2", 47),
        _request("a token less than a block", 0, "KV-USE-2", 15),
        _request("no tokens", 0, "KV-USE-2", 0),
        _request("another token at the end", 48, "KV-USE-2", other=63),
        _request("another token at the start of the third block", 32, "KV-USE-2", other=32),
        _request("another token at the end of the second block", 16, "KV-USE-2", other=31),
        _request("another token at the start", 0, "KV-USE-2", other=0),
        _request("another token behind the session", 64, "KV-USE-2", 65, other=64),
        _request("an adapter", 0, "KV-USE-4", adapter=ADAPTER),
        _request("a salt", 0, "KV-USE-5", salt=SALT),
        _request("media behind the session", 64, "KV-USE-6", 100, media=[_media(64)]),
        _request("media from the third block on", 32, "KV-USE-6", media=[_media(32)]),
        _request(
            "media that begin with the last token of a block", 16, "KV-USE-6", media=[_media(31)]
        ),
        _request("media at the start", 0, "KV-USE-6", media=[_media(0)]),
    ),
    _case(
        "block-sizes",
        "groups with blocks of 16 and of 32 tokens, hashes of 8",
        _session(
            FULL,
            group("b", blocks=2, block_tokens=32),
            hashes=hashes(8, block_tokens=8),
        ),
        _request("the same tokens", 64, "KV-USE-2"),
        _request("another token in the last block of 16", 32, "KV-USE-2", other=50),
        _request("a token less than a block of 32", 0, "KV-USE-2", 31),
        _request("a token more", 32, "KV-USE-2", 33),
    ),
    _case(
        "window",
        "a window of 20 tokens, of which the last two blocks are stored",
        _windowed(20, 2),
        _request("the same tokens", 64, "KV-USE-3"),
        _request("more tokens", 64, "KV-USE-3", 90),
        _request(
            "another token at the end: the window of 48 begins before", 0, "KV-USE-3", other=63
        ),
        _request("a block less", 0, "KV-USE-3", 63),
    ),
    _case(
        "window-fits",
        "a window of 17 tokens, of which the last two blocks are stored",
        _windowed(17, 2),
        _request(
            "another token at the end: the window of 48 begins with them", 48, "KV-USE-3", other=63
        ),
        _request("two blocks less: the window of 32 begins before", 0, "KV-USE-3", 47),
    ),
    _case(
        "window-short",
        "a window that needs nothing but its token, of which the last block is stored",
        _windowed(1, 3),
        _request("another token at the end", 48, "KV-USE-3", other=63),
        _request("two blocks less: there is nothing behind it", 0, "KV-USE-3", 47),
    ),
    _case(
        "window-whole",
        "a window that is longer than the session, all of which is stored",
        _windowed(4096, 0),
        _request("the same tokens", 64, "KV-USE-3"),
        _request("one block", 16, "KV-USE-3", 20),
    ),
    _case(
        "state",
        "a state, of which the last is stored",
        _state(3),
        _request("the same tokens", 64, "KV-USE-3"),
        _request("more tokens", 64, "KV-USE-3", 90),
        _request("another token at the end: the state of 48 is not there", 0, "KV-USE-3", other=63),
        _request("a token less", 0, "KV-USE-3", 63),
    ),
    _case(
        "state-two",
        "a state, of which the last two are stored",
        _state(2),
        _request("the same tokens", 64, "KV-USE-3"),
        _request("another token at the end", 48, "KV-USE-3", other=63),
        _request("two blocks less", 0, "KV-USE-3", 47),
    ),
    _case(
        "state-all",
        "a state behind every block",
        _state(0),
        _request("a block and a token", 16, "KV-USE-3", 17),
        _request("a block", 16, "KV-USE-3", 16),
    ),
    _case(
        "state-coarse",
        "a state of blocks of 32 tokens, of which the last is stored",
        _session(
            group("a", blocks=4),
            group("s", kind="state", block_tokens=32, first_block=1, blocks=1),
        ),
        _request("the same tokens", 64, "KV-USE-3"),
        _request("another token at the end: 48 is no end of a state", 0, "KV-USE-3", other=63),
    ),
    _case(
        "state-window",
        "a state, of which the last two are stored, and a window that needs them all",
        _state(2, group("b", kind="sliding-window", window=33, first_block=2, blocks=2)),
        _request("the same tokens", 64, "KV-USE-3"),
        _request("another token at the end: the window begins before", 0, "KV-USE-3", other=63),
    ),
    _case(
        "adapter",
        "an adapter",
        _session(FULL, adapter=ADAPTER),
        _request("the same", 64, "KV-USE-4", adapter=ADAPTER),
        _request("none", 0, "KV-USE-4"),
        _request(
            "its name, with other content", 0, "KV-USE-4", adapter=ADAPTER | {"sha256": "0" * 64}
        ),
    ),
    _case(
        "salt",
        "a salt",
        _session(FULL, salt_sha256=SALT_SHA256),
        _request("the same", 64, "KV-USE-5", salt=SALT),
        _request("none", 0, "KV-USE-5"),
        _request("another", 0, "KV-USE-5", salt="a grain "),
        _request("its hash", 0, "KV-USE-5", salt=SALT_SHA256),
    ),
    _case(
        "media",
        "two media, at token 3 and at token 20",
        _session(FULL, media=MEDIA),
        _request("the same", 64, "KV-USE-6", media=MEDIA),
        _request("one more, in the last block", 48, "KV-USE-6", media=[*MEDIA, _media(50)]),
        _request("another in place of the second", 16, "KV-USE-6", media=[CAT, _media(20)]),
        _request("the second is not there", 16, "KV-USE-6", media=[CAT]),
        _request("the second is longer", 16, "KV-USE-6", media=[CAT, DOG | {"length": 5}]),
        _request(
            "the second is later, in the next block",
            16,
            "KV-USE-6",
            media=[CAT, DOG | {"offset": 33}],
        ),
        _request(
            "the second is earlier, in the first block",
            0,
            "KV-USE-6",
            media=[CAT, DOG | {"offset": 13}],
        ),
        _request("the second twice", 16, "KV-USE-6", media=[CAT, DOG, DOG]),
        _request("another in place of the first", 0, "KV-USE-6", media=[_media(3), DOG]),
        _request("the first is not there", 0, "KV-USE-6", media=[DOG]),
        _request("none", 0, "KV-USE-6"),
    ),
]
