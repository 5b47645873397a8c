"""The reference reader and writer of the `.thaw` format (spec/thaw-1.0.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lookup import looked_up, places_of

if TYPE_CHECKING:
    from .codes import RULES, format_error
    from .collector import collector_paused
    from .dtypes import dtype_name
    from .errors import (
        ChecksumError,
        FeatureError,
        FormatError,
        LayoutError,
        MagicError,
        ManifestError,
        ThawError,
        TruncatedError,
        VersionError,
        naming,
    )
    from .index import INDEX_NAME, rank_file
    from .layout import (
        Layout,
        Viewer,
        as_integers,
        byte_view,
        extent_nbytes,
        has_memory,
        is_strided,
        layout_tensors,
        merge_overlapping,
        tensor_view,
    )
    from .manifest import Manifest, parse_manifest, serialize_manifest
    from .ranks import (
        has_every_rank,
        open_rank,
        open_rank_files,
        open_ranks,
        read_index,
        serialize_index,
    )
    from .replacing import place_of
    from .sealing import sealed, write_file
    from .shard import ShardFile, UnparsedShard, open_shard, open_unparsed
    from .snapshot import Chunks, Digests, RankOf, Run, Shard, Snapshot, Storage, TensorSpec
    from .source import (
        FileSource,
        FileTarget,
        HasDescriptor,
        HasLockedPages,
        Source,
        Target,
        not_a_file,
    )
    from .staging import (
        check_replaceable,
        find_staged,
        make_staging_folder,
        seal_folder,
        staging_folder,
    )
    from .strict_json import JSON, parse_json, serialize_json
    from .superblock import (
        DEFAULT_CHUNK_NBYTES,
        STORAGE_ALIGNMENT,
        Section,
        Superblock,
        align,
        describe,
        parse_superblock,
        serialize_superblock,
    )
    from .tensors import read_tensors, write_tensors
    from .torch_dtypes import DTYPES
    from .verification import chunk_error, verify_shard
    from .writer import Description, write_shard

__all__ = [
    "DEFAULT_CHUNK_NBYTES",
    "DTYPES",
    "INDEX_NAME",
    "JSON",
    "RULES",
    "STORAGE_ALIGNMENT",
    "ChecksumError",
    "Chunks",
    "Description",
    "Digests",
    "FeatureError",
    "FileSource",
    "FileTarget",
    "FormatError",
    "HasDescriptor",
    "HasLockedPages",
    "Layout",
    "LayoutError",
    "MagicError",
    "Manifest",
    "ManifestError",
    "RankOf",
    "Run",
    "Section",
    "Shard",
    "ShardFile",
    "Snapshot",
    "Source",
    "Storage",
    "Superblock",
    "Target",
    "TensorSpec",
    "ThawError",
    "TruncatedError",
    "UnparsedShard",
    "VersionError",
    "Viewer",
    "align",
    "as_integers",
    "byte_view",
    "check_replaceable",
    "chunk_error",
    "collector_paused",
    "describe",
    "dtype_name",
    "extent_nbytes",
    "find_staged",
    "format_error",
    "has_every_rank",
    "has_memory",
    "is_strided",
    "layout_tensors",
    "make_staging_folder",
    "merge_overlapping",
    "naming",
    "not_a_file",
    "open_rank",
    "open_rank_files",
    "open_ranks",
    "open_shard",
    "open_unparsed",
    "parse_json",
    "parse_manifest",
    "parse_superblock",
    "place_of",
    "rank_file",
    "read_index",
    "read_tensors",
    "seal_folder",
    "sealed",
    "serialize_index",
    "serialize_json",
    "serialize_manifest",
    "serialize_superblock",
    "staging_folder",
    "tensor_view",
    "verify_shard",
    "write_file",
    "write_shard",
    "write_tensors",
]

_PLACES = places_of(
    __name__,
    {
        ".codes": "RULES format_error",
        ".collector": "collector_paused",
        ".dtypes": "dtype_name",
        ".errors": "ChecksumError FeatureError FormatError LayoutError MagicError ManifestError "
        "ThawError TruncatedError VersionError naming",
        ".index": "INDEX_NAME rank_file",
        ".layout": "Layout Viewer as_integers byte_view extent_nbytes has_memory is_strided "
        "layout_tensors merge_overlapping tensor_view",
        ".manifest": "Manifest parse_manifest serialize_manifest",
        ".ranks": "has_every_rank open_rank open_rank_files open_ranks read_index serialize_index",
        ".replacing": "place_of",
        ".sealing": "sealed write_file",
        ".shard": "ShardFile UnparsedShard open_shard open_unparsed",
        ".snapshot": "Chunks Digests RankOf Run Shard Snapshot Storage TensorSpec",
        ".source": "FileSource FileTarget HasDescriptor HasLockedPages Source Target not_a_file",
        ".staging": "check_replaceable find_staged make_staging_folder seal_folder staging_folder",
        ".strict_json": "JSON parse_json serialize_json",
        ".superblock": "DEFAULT_CHUNK_NBYTES STORAGE_ALIGNMENT Section Superblock align describe "
        "parse_superblock serialize_superblock",
        ".tensors": "read_tensors write_tensors",
        ".torch_dtypes": "DTYPES",
        ".verification": "chunk_error verify_shard",
        ".writer": "Description write_shard",
    },
)

# A type checker reads the imports above, and knows of a name that there is none.
if not TYPE_CHECKING:
    __getattr__, __dir__ = looked_up(__name__, _PLACES, {"Place": "RankOf"})
