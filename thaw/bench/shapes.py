"""The shape of the JSON document."""

from typing import Annotated, TypedDict


class WayJSON(TypedDict):
    """One way to move bytes."""

    how: str
    gbps: Annotated[float | None, "median of the runs, 10^9 bytes a second"]
    lowest: float | None
    highest: float | None
    reason: Annotated[str | None, "why it could not be measured"]


class CeilingJSON(TypedDict):
    """The most that this machine moves by one kind of path."""

    name: Annotated[
        str,
        "`h2d-pinned`, `d2h-pinned`, `memcpy`, `read-page-cache`, `read-direct` or `write`",
    ]
    gbps: Annotated[float | None, "that of the best way; null where none works here"]
    detail: Annotated[list[WayJSON], "every way that was tried"]


class RowJSON(TypedDict):
    """What a backend reached in one operation."""

    backend: str
    device: str
    operation: Annotated[
        str,
        "`restore first` (in a fresh process, after imports and the start of CUDA), "
        "`restore again`, `restore into` (tensors that are there), `pin`, `restore pinned`, "
        "`freeze`, `restore cold` or, of a backend that is not available, `probe`",
    ]
    route: Annotated[str, "which way the bytes really went"]
    path_ran: Annotated[str, "what `route` was called before"]
    elapsed_s: Annotated[list[float], "of each run"]
    nbytes: Annotated[int, "bytes moved by each run"]
    gbps: Annotated[float | None, "of the median of the runs, 10^9 bytes a second"]
    identical: Annotated[
        bool | None,
        "whether every run gave the bytes that the reference backend restores; null where no "
        "bytes were to be compared",
    ]
    ceiling: Annotated[str, "the name of the ceiling it is compared with, or empty"]
    share: Annotated[float | None, "of that ceiling"]
    available: Annotated[bool, "whether the backend can serve the device here"]
    error: Annotated[str | None, "why the backend is not available, or what failed"]


class MachineJSON(TypedDict):
    """Where it was measured."""

    cpu: str
    cores: Annotated[int, "that the process may use"]
    memory_nbytes: int
    kernel: str
    gpu: Annotated[str | None, "null when measured on the CPU"]
    driver: Annotated[str | None, "version of the NVIDIA driver"]
    cuda: Annotated[str | None, "version of CUDA that torch is built for"]
    torch: str
    python: str
    backends: Annotated[dict[str, str], "versions of the distributions that bring backends"]


class MeasuredJSON(TypedDict):
    """The snapshot that was restored and frozen."""

    path: str
    format: str
    tensors: Annotated[int, "how many"]
    nbytes: Annotated[int, "bytes of its storages"]


class BenchJSON(TypedDict):
    """What this machine can move, and what share of it every backend reaches."""

    schema: Annotated[str, "`thaw.bench`"]
    schema_version: Annotated[int, "1"]
    thaw: Annotated[str, "version"]
    commit: Annotated[str | None, "of the checkout that ran, `-dirty` if it was changed"]
    date: Annotated[str, "UTC, ISO 8601"]
    machine: MachineJSON
    snapshot: MeasuredJSON
    device: str
    folder_filesystem: Annotated[str, "of the folder of the ceilings and of the frozen files"]
    repeat: int
    ceilings: list[CeilingJSON]
    rows: list[RowJSON]
