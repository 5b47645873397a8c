"""What the parts of a session have to do with each other and with the tensors of its file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from thaw_format import Snapshot, TensorSpec

from .parts import FULL, SLIDING_WINDOW, STATE, Group, Hashes, Layer, Media
from .rules import session_error

_WIDTHS = {"sha256": 32, "sha256_cbor": 32}
_TOKEN_NBYTES = 4


def count_tokens(token_ids: bytes) -> int:
    """Return how many tokens there are (rule KV-9)."""
    if not token_ids or len(token_ids) % _TOKEN_NBYTES:
        message = f"'token_ids' has {len(token_ids)} bytes; a token has {_TOKEN_NBYTES}"
        raise session_error("session-tokens", message)
    return len(token_ids) // _TOKEN_NBYTES


def check_hashes(hashes: Hashes, tokens: int) -> None:
    """Check that there is a hash for each block (rules KV-10 and KV-11)."""
    count = _blocks(hashes.block_tokens, tokens, "'hashes'")
    width, odd = divmod(len(hashes.values), count)
    wanted = _WIDTHS.get(hashes.algorithm, width)
    if not width or odd or width != wanted:
        message = f"'values' of 'hashes' has {len(hashes.values)} bytes for {count} hashes"
        if wanted:
            message += f" of {wanted} ({hashes.algorithm})"
        raise session_error("session-hashes", message)


def check_groups(groups: Sequence[Group], tokens: int) -> None:
    """Check which blocks each group stores (rules KV-10 and KV-12 to KV-14)."""
    for index, group in enumerate(groups):
        _check_group(group, tokens, f"group {index}")


def _check_group(group: Group, tokens: int, where: str) -> None:
    count = _blocks(group.block_tokens, tokens, where)
    _check_kind(group, where)
    first, stored = group.first_block, group.blocks
    if first < 0 or stored < 1 or first + stored != count:
        message = f"{where} stores {stored} blocks from {first} of {count}, not all to the end"
        raise session_error("session-blocks", message)
    needed = min(tokens, (group.window or 1) - 1)
    if (found := tokens - first * group.block_tokens) < needed:
        message = f"{where} stores the last {found} tokens; its window needs {needed}"
        raise session_error("session-window", message)


def _check_kind(group: Group, where: str) -> None:
    if group.kind == FULL:
        good = group.window is None and group.first_block == 0
    elif group.kind == STATE:
        good = group.window is None
    else:
        good = group.kind == SLIDING_WINDOW and group.window is not None and group.window >= 1
    if not good:
        message = (
            f"{where} has kind {group.kind!r}, window {group.window} and first block "
            f"{group.first_block}; 'full' has no window and begins with block 0, "
            "'sliding-window' has a window of 1 token or more, 'state' has no window"
        )
        raise session_error("session-group", message)


def _blocks(block_tokens: int, tokens: int, where: str) -> int:
    if block_tokens < 1 or tokens % block_tokens:
        message = f"{where} has blocks of {block_tokens} tokens; the session has {tokens}"
        raise session_error("session-block-tokens", message)
    return tokens // block_tokens


def check_layers(groups: Sequence[Group], layers: Mapping[str, Layer]) -> None:
    """Check each layer, and that it is in one group (rules KV-15 and KV-16)."""
    if not layers:
        raise session_error("session-layers", "the session has no layer")
    counts = Counter(name for group in groups for name in group.layers)
    for name in counts.keys() | layers.keys():
        if name not in layers or counts[name] != 1:
            message = f"layer {name!r} is in {counts[name]} groups"
            message += "" if name in layers else " and not in 'layers'"
            raise session_error("session-layers", message)
    for name, layer in layers.items():
        _check_layer(name, layer)


def _check_layer(name: str, layer: Layer) -> None:
    sizes = [size for size in layer.shape if size is not None]
    one_null = len(layer.shape) - len(sizes) == 1
    in_order = sorted(layer.order) == list(range(len(layer.shape)))
    if not one_null or not in_order or min([*sizes, layer.rows_per_block]) < 1:
        message = (
            f"layer {name!r} has shape {list(layer.shape)}, order {list(layer.order)} and "
            f"{layer.rows_per_block} rows a block; one size is null, no other below 1, and "
            "'order' has each dimension once"
        )
        raise session_error("session-layer", message)


def check_media(media: Sequence[Media], tokens: int) -> None:
    """Check that media lie among the tokens, in their order (rule KV-17)."""
    before = 0
    for index, each in enumerate(media):
        if not before <= each.offset < tokens or each.length < 1:
            message = (
                f"media {index} has {each.length} tokens from {each.offset}; it begins from "
                f"{before} to {tokens - 1}, and has one at least"
            )
            raise session_error("session-media", message)
        before = each.offset


def check_tensors(groups: Sequence[Group], layers: Mapping[str, Layer], snapshot: Snapshot) -> None:
    """Check that the tensors of a file are the layers' blocks (rules KV-18 to KV-21)."""
    if odd := snapshot.tensors.keys() ^ layers.keys():
        name = min(odd)
        what = "no tensor of the file" if name in layers else "a tensor, but no layer"
        raise session_error("session-tensors", f"{name!r} is {what}")
    for group in groups:
        for name in group.layers:
            layer = layers[name]
            shape = (group.blocks * layer.rows_per_block, *layer.row_shape)
            _check_tensor(name, snapshot.tensors[name], shape)
    viewed: dict[int, str] = {}
    for name, spec in snapshot.tensors.items():
        if (other := viewed.setdefault(spec.storage, name)) != name:
            message = f"tensors {other!r} and {name!r} are of one storage, {spec.storage}"
            raise session_error("session-storage", message)


def _check_tensor(name: str, spec: TensorSpec, shape: tuple[int, ...]) -> None:
    if spec.shape != shape:
        message = f"tensor {name!r} has shape {list(spec.shape)}; its blocks have {list(shape)}"
        raise session_error("session-tensor-shape", message)
    step = 1
    for size, stride in zip(reversed(shape), reversed(spec.stride), strict=True):
        if size > 1 and stride != step:
            message = f"tensor {name!r} has strides {list(spec.stride)}; blocks have no gaps"
            raise session_error("session-tensor-stride", message)
        step *= size
