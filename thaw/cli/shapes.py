"""The shapes of what `--json` prints; the reference in docs/cli.md is made from them."""

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired, TypedDict

from thaw.bench.shapes import BenchJSON

from .session_shapes import SessionTableJSON


class TensorJSON(TypedDict):
    """One tensor (specification, section 13.1)."""

    rank: Annotated[int, "the rank whose shard holds it"]
    name: str
    dtype: Annotated[str, "in the words of the specification"]
    shape: list[int]
    stride: Annotated[list[int], "in elements"]
    storage: Annotated[int, "index of its storage in the shard; tied tensors share one"]
    offset: Annotated[int, "in bytes from the start of the storage"]
    nbytes: Annotated[int, "bytes of all elements"]
    sha256: NotRequired[
        Annotated[str, "of the elements in index order; only there with `--sha256`"]
    ]


class PlaceJSON(TypedDict):
    """A rank among several."""

    rank: int
    size: int


class RankJSON(TypedDict):
    """One shard of the snapshot."""

    rank: int
    size: Annotated[int, "how many ranks the snapshot has"]
    tp: Annotated[PlaceJSON | None, "its place in tensor parallelism"]
    pp: Annotated[PlaceJSON | None, "its place in pipeline parallelism"]
    ep: Annotated[PlaceJSON | None, "its place in expert parallelism"]
    files: Annotated[list[str], "paths of the files that hold its bytes"]
    tensors: Annotated[int, "how many"]
    storages: Annotated[int, "how many"]
    nbytes: Annotated[int, "bytes of its storages"]
    file_nbytes: Annotated[int, "bytes of its files"]
    chunks: Annotated[int, "chunks that have a digest; 0 where the format has none"]
    metadata: Annotated[dict[str, Any], "as stored"]


class InspectJSON(TypedDict):
    """What a snapshot or checkpoint holds."""

    path: str
    format: Annotated[str, "`thaw`, `safetensors`, or that of a plugin"]
    format_version: Annotated[str | None, "major and minor version, where the format has them"]
    kind: Annotated[str, "`weights`, `kv`, or another word"]
    snapshot_id: Annotated[str | None, "32 hexadecimal digits, where the format has them"]
    producer: Annotated[dict[str, Any], "name and version of the writer, as stored"]
    metadata: Annotated[dict[str, Any], "of the first rank shown, as stored"]
    nbytes: Annotated[int, "bytes of all storages"]
    file_nbytes: Annotated[int, "bytes of all files"]
    storages: Annotated[int, "how many"]
    chunk_nbytes: Annotated[int | None, "size of a chunk, where the format has digests"]
    chunks_checked: Annotated[int, "digests that were checked; 0 without `--sha256`"]
    ranks: Annotated[list[RankJSON], "one a rank, in order; one with `--rank`"]
    tensors: Annotated[list[TensorJSON], "sorted by rank, then by name (by code points)"]
    sessions: NotRequired[Annotated[list[SessionTableJSON], "one a rank; only there for a session"]]


class ConvertJSON(TypedDict):
    """What was moved."""

    source: str
    destination: str
    source_format: str
    destination_format: str
    files: Annotated[list[str], "paths of the files written"]
    tensors: Annotated[int, "how many"]
    nbytes: Annotated[int, "bytes of tensors read"]
    elapsed_s: float
    gbps: Annotated[float, "10^9 bytes a second"]
    backend: Annotated[str, "the one that moved the bytes"]


class FrozenModelJSON(TypedDict):
    """What was frozen of a model that vLLM loaded."""

    model: Annotated[str, "as given"]
    destination: str
    stage: Annotated[str, "`loaded` or `processed`"]
    kind: Annotated[str, "the same; the name that `stage` had before"]
    files: Annotated[list[str], "paths of the files written"]
    ranks: Annotated[int, "how many"]
    tensors: Annotated[int, "how many, of all ranks"]
    nbytes: Annotated[int, "bytes of tensors written, of all ranks"]
    elapsed_s: Annotated[float, "how long the slowest rank wrote"]
    total_s: Annotated[float, "how long all took, with vLLM's start and its loading"]
    gbps: Annotated[float, "10^9 bytes a second, while ranks wrote"]
    backends: Annotated[list[str], "the one that moved the bytes, for each rank"]


class VerifyJSON(TypedDict):
    """What was verified."""

    path: str
    has_digests: Annotated[bool, "false: the format cannot show that bytes are unchanged"]
    chunks_checked: int
    ranks: Annotated[int, "how many"]
    tensors: Annotated[int, "how many"]
    session_tokens: Annotated[int | None, "of the session that it holds; null if it holds none"]
    nbytes: Annotated[int, "bytes of all files"]
    elapsed_s: float
    gbps: Annotated[float, "10^9 bytes a second"]


class TensorDifferenceJSON(TypedDict):
    """How a tensor differs."""

    name: str
    what: Annotated[str, "`dtype`, `shape`, `stride`, `aliasing` or `bytes`"]
    a: Annotated[str, "how it is in A"]
    b: Annotated[str, "how it is in B"]


class DifferenceJSON(TypedDict):
    """How two snapshots differ."""

    a: Annotated[str, "path"]
    b: Annotated[str, "path"]
    identical: bool
    tensors_compared: Annotated[int, "names that both have"]
    only_in_a: Annotated[list[str], "names"]
    only_in_b: Annotated[list[str], "names"]
    changed: list[TensorDifferenceJSON]


class SessionJSON(TypedDict):
    """A session, or what has the name of one and cannot be used."""

    name: str
    path: str
    snapshot_id: Annotated[str | None, "32 hexadecimal digits"]
    tokens: Annotated[int, "how many; 0 if it cannot be used"]
    nbytes: Annotated[int, "bytes of its files"]
    ranks: Annotated[int, "how many; 0 if it cannot be used"]
    model: Annotated[str | None, "the architecture"]
    dtype: Annotated[str | None, "of the model"]
    vllm: Annotated[str | None, "the release"]
    cache_dtypes: Annotated[list[str], "the words for elements of the KV cache that its layers use"]
    attention: Annotated[list[str], "the attention backends of its layers"]
    block_tokens: Annotated[list[int], "how many tokens a block of each group of layers has"]
    adapter: Annotated[str | None, "the name of the LoRA adapter"]
    salted: Annotated[bool, "whether only requests with its cache salt can use it"]
    media: Annotated[int, "how many images and the like are among the tokens"]
    fingerprints: Annotated[list[str], "of each rank's weights, 64 hexadecimal digits"]
    frozen_at: Annotated[str, "ISO 8601, UTC"]
    used_at: Annotated[str, "ISO 8601, UTC; at first when it was frozen"]
    error: Annotated[str | None, "why it cannot be used"]


class SessionsJSON(TypedDict):
    """The sessions of a folder."""

    folder: str
    nbytes: Annotated[int, "of those that can be used"]
    sessions: Annotated[list[SessionJSON], "by name"]


class PrunedJSON(TypedDict):
    """What was removed of a folder of sessions."""

    folder: str
    max_nbytes: Annotated[int, "as given"]
    dry_run: Annotated[bool, "true: nothing was removed, and the rest says what would be"]
    removed: Annotated[list[SessionJSON], "oldest use first"]
    left: Annotated[int, "how many sessions there are now"]
    nbytes: Annotated[int, "what they have"]


class StartedLauncherJSON(TypedDict):
    """The launcher that runs now."""

    pid: Annotated[int, "its process"]
    started: Annotated[bool, "false: it ran already"]
    elapsed_s: Annotated[float, "how long its imports took"]
    modules: Annotated[int, "how many it has imported"]


class StoppedLauncherJSON(TypedDict):
    """The launcher that has ended."""

    pid: Annotated[int, "its process"]
    children: Annotated[list[int], "processes that it forked and that go on"]


class LauncherJSON(TypedDict):
    """A launcher."""

    pid: Annotated[int, "its process"]
    started_at: Annotated[str, "ISO 8601, UTC"]
    elapsed_s: Annotated[float, "how long its imports took"]
    modules: Annotated[int, "how many it has imported"]
    changed: Annotated[str | None, "why it is used no more: what has changed since it started"]
    forked: Annotated[int, "how many servers it has forked"]
    children: Annotated[list[int], "processes of those that run"]


class SupportJSON(TypedDict):
    """What a backend could do with a device here."""

    available: bool
    reason: str
    route: Annotated[str, "which way bytes would really go"]
    path: Annotated[str, "what `route` was called before"]


class BackendJSON(TypedDict):
    """A backend, or a broken plugin."""

    name: str
    distribution: Annotated[str, "the distribution that it comes from"]
    support: Annotated[dict[str, SupportJSON], "by device"]
    error: Annotated[str | None, "why the plugin is broken"]


class FormatJSON(TypedDict):
    """A format, or a broken plugin."""

    name: str
    description: str
    distribution: Annotated[str, "the distribution that it comes from"]
    suffixes: Annotated[list[str], "file name endings by which a destination is recognized"]
    error: Annotated[str | None, "why the plugin is broken"]


class VersionJSON(TypedDict):
    """Versions."""

    thaw: str
    format: Annotated[str, "the version of the `.thaw` format that is written"]
    torch: str
    python: str


class ErrorJSON(TypedDict):
    """What the last line of standard error says of an error."""

    code: Annotated[str, "a code of the format's specification, or one of those below"]
    rule: Annotated[str | None, "the rule of the specification that is broken"]
    message: Annotated[str, "for people; may change"]
    path: Annotated[str | None, "the file or folder at fault"]
    offset: Annotated[int | None, "a byte offset in that file"]


OUTPUTS: Mapping[str, Any] = {
    "freeze": ConvertJSON | FrozenModelJSON,
    "restore": ConvertJSON,
    "convert": ConvertJSON,
    "inspect": InspectJSON,
    "verify": VerifyJSON,
    "diff": DifferenceJSON,
    "sessions": SessionsJSON,
    "sessions prune": PrunedJSON,
    "launcher start": StartedLauncherJSON,
    "launcher stop": StoppedLauncherJSON,
    "launcher status": LauncherJSON,
    "bench": BenchJSON,
    "backends": list[BackendJSON],
    "formats": list[FormatJSON],
    "version": VersionJSON,
}
