"""The shapes of a session in what `--json` prints (spec/sessions-1.0.md, section 7.1)."""

from typing import Annotated, Any, NotRequired, TypedDict


class SessionHashesJSON(TypedDict):
    """By which hashes the engine that froze a session knew its blocks."""

    algorithm: str
    seed: Annotated[str, "hexadecimal digits"]
    block_tokens: Annotated[int, "tokens that a hash covers beyond those of its parent"]
    count: Annotated[int, "how many hashes"]
    width: Annotated[int, "bytes of a hash"]
    sha256: Annotated[str, "of the hashes, one after another"]


class SessionGroupJSON(TypedDict):
    """Layers of a session whose blocks are dealt out together."""

    kind: Annotated[str, "`full` or `sliding-window`"]
    block_tokens: Annotated[int, "tokens of a block"]
    window: Annotated[int | None, "in tokens, of a sliding window"]
    first_block: Annotated[int, "the first block that is stored"]
    blocks: Annotated[int, "how many are stored"]
    layers: Annotated[list[str], "names"]


class SessionLayerJSON(TypedDict):
    """How a layer of a session is laid out, and the tensor that holds its blocks."""

    name: str
    group: Annotated[int, "index of its group"]
    shape: Annotated[list[int | None], "as the attention backend sees it; null for the rows"]
    order: Annotated[list[int], "dimensions by their strides, the widest first"]
    rows_per_block: int
    backend: Annotated[str, "the attention backend"]
    cache_dtype: Annotated[str, "what the engine calls the elements"]
    dtype: Annotated[str, "of the tensor, in the words of the specification"]
    rows: Annotated[int, "how many are stored"]
    row_nbytes: Annotated[int, "bytes of a row"]
    sha256: NotRequired[
        Annotated[str, "of the elements in index order; only there with `--sha256`"]
    ]


class SessionAdapterJSON(TypedDict):
    """The adapter that a session was computed with."""

    name: str
    sha256: Annotated[str, "of what it holds"]


class SessionMediaJSON(TypedDict):
    """An image or the like whose placeholders are among the tokens of a session."""

    identifier: str
    offset: Annotated[int, "its first placeholder, in tokens from the start"]
    length: Annotated[int, "how many placeholders"]


class SessionTableJSON(TypedDict):
    """What one rank's file says of a session (section 7.1 of the profile)."""

    rank: int
    tokens: Annotated[int, "how many"]
    token_ids_sha256: Annotated[str, "of the token ids, four bytes each, little-endian"]
    hashes: SessionHashesJSON
    groups: list[SessionGroupJSON]
    layers: Annotated[list[SessionLayerJSON], "sorted by name (by code points)"]
    fingerprint: Annotated[str, "of this rank's weights"]
    engine: Annotated[dict[str, Any], "what else its blocks depend on, as stored"]
    adapter: SessionAdapterJSON | None
    salt_sha256: Annotated[str | None, "of the cache salt"]
    media: list[SessionMediaJSON]
