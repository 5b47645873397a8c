from array import array
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, final

# Offsets, addresses and sizes of extents: buffers of 64-bit integers.
Columns: TypeAlias = tuple[array[int], array[int], array[int]]
# (offset, nbytes, chunk_nbytes)
_Chunks: TypeAlias = tuple[int, int, int]
# The ordinal of a CUDA device, and the PTX of the kernels for it.
_Device: TypeAlias = tuple[int, bytes]

MAX_POOL_NBYTES: int

class NativeError(Exception): ...

@final
class Settings:
    def __new__(
        cls,
        threads: int,
        piece_nbytes: int,
        share_nbytes: int,
        slots: int,
        io: Literal["auto", "buffered", "direct"],
        digests_on_device: bool,
    ) -> Settings: ...

@final
class ReadRequest:
    def __new__(
        cls,
        *,
        files: Sequence[tuple[int, int, Columns]],
        settings: Settings,
        device: _Device | None = None,
        pinned: int | None = None,
        digests: tuple[_Chunks, Sequence[int]] | None = None,
    ) -> ReadRequest: ...

@final
class WriteRequest:
    def __new__(
        cls,
        *,
        fd: int,
        extents: Columns,
        chunks: _Chunks,
        settings: Settings,
        device: _Device | None = None,
        on_host: Columns | None = None,
    ) -> WriteRequest: ...

def obstacle(ordinal: int) -> str | None: ...
def read(
    request: ReadRequest, progress: Callable[[int], None] | None = None
) -> tuple[str, int]: ...
def write(
    request: WriteRequest, progress: Callable[[int], None] | None = None
) -> tuple[str, list[int]]: ...
