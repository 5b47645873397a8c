from collections.abc import Callable, Sequence
from typing import Literal, final

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

def obstacle(ordinal: int) -> str | None: ...
def read(
    sources: Sequence[tuple[int, int, Sequence[tuple[int, int, int]]]],
    pinned: int | None,
    chunks: tuple[int, int, int] | None,
    expected: Sequence[int],
    device: int | None,
    ptx: bytes,
    settings: Settings,
    progress: Callable[[int], None] | None,
) -> str: ...
def write(
    fd: int,
    extents: Sequence[tuple[int, int, int]],
    on_host: Sequence[tuple[int, int, int]],
    chunks: tuple[int, int, int],
    device: int | None,
    ptx: bytes,
    settings: Settings,
    progress: Callable[[int], None] | None,
) -> tuple[str, list[int]]: ...
