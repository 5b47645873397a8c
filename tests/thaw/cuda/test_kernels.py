"""The CUDA kernels, run on the CPU from their source, and on a GPU where there is one."""

from __future__ import annotations

import ctypes
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from google_crc32c import value as crc32c

from thaw.cuda import PTX, SEGMENT_NBYTES, SOURCE
from thaw.cuda.digests import DeviceDigests, _cut

ROOT = Path(__file__).parents[3]
SIZES = (0, 1, 3, 15, 16, 17, 31, 4095, 4096, 4097, 65535, 65536)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    library = tmp_path_factory.mktemp("kernels") / "kernels.so"
    options = ["-O1", "-std=c++20", "-shared", "-fPIC", "-pthread", f"-I{SOURCE.parent}"]
    emulator = Path(__file__).with_name("emulate.cpp")
    subprocess.run(["g++", *options, "-o", str(library), str(emulator)], check=True)
    return ctypes.CDLL(str(library))


def address(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def random_bytes(seed: int, nbytes: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(random.Random(seed).randbytes(nbytes), dtype=np.uint8).copy()


@pytest.mark.parametrize("seed", range(12))
def test_remainders_join_to_the_crc(kernels: ctypes.CDLL, seed: int) -> None:
    choose, data = random.Random(seed), random_bytes(seed, 200_000)
    places = [
        [
            (choose.randrange(40), choose.choice([*SIZES, choose.randrange(150_000)]))
            for _ in range(choose.randrange(4))
        ]
        for _ in range(3)
    ]
    runs = [[(data.ctypes.data + start, size) for start, size in run] for run in places]
    segments, spans = _cut(runs)
    remainders = np.zeros(len(segments), dtype=np.uint32)
    crcs = np.zeros(len(spans), dtype=np.uint32)
    kernels.emulate_remainders(address(segments), address(remainders), len(segments))
    kernels.emulate_join(
        address(segments), address(remainders), address(spans), len(spans), address(crcs)
    )
    assert crcs.tolist() == [
        crc32c(b"".join(data[start : start + size].tobytes() for start, size in run))
        for run in places
    ]


@pytest.mark.parametrize("nbytes", [*SIZES, 5, 1000])
def test_copies_between_any_two_addresses(kernels: ctypes.CDLL, nbytes: int) -> None:
    data = random_bytes(nbytes, 70_000)
    for start, to in [(0, 0), (1, 1), (3, 8), (16, 5), (7, 7), (2, 13)]:
        copied = np.zeros_like(data)
        part = np.array(
            [(data.ctypes.data + start, copied.ctypes.data + to, nbytes)], dtype=np.uint64
        )
        kernels.emulate_copy(address(part), 1)
        expected = np.zeros_like(data)
        expected[to : to + nbytes] = data[start : start + nbytes]
        assert np.array_equal(copied, expected)


def test_segments_are_no_longer_than_a_kernel_takes() -> None:
    segments, spans = _cut([[(1000, 2 * SEGMENT_NBYTES + 5)], [], [(7, 3), (9, SEGMENT_NBYTES)]])
    assert segments[:, 1].tolist() == [SEGMENT_NBYTES, SEGMENT_NBYTES, 5, 3, SEGMENT_NBYTES]
    assert spans.tolist() == [[0, 3], [3, 0], [3, 2]]


def test_the_compiled_kernels_are_those_of_the_source() -> None:
    pytest.importorskip("nvidia.cuda_nvrtc", reason="needs nvidia-cuda-nvrtc-cu12")
    script = [sys.executable, str(ROOT / "scripts" / "make_ptx.py"), "--check"]
    done = subprocess.run(script, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert b"thaw_remainders" in PTX.read_bytes()


@pytest.mark.gpu
def test_digests_of_device_memory() -> None:
    pytest.importorskip("cupy")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    choose, data = random.Random(5), random_bytes(5, 3_000_000)
    memory = torch.from_numpy(data).cuda()
    places = [
        [(choose.randrange(2_000_000), choose.choice([*SIZES, 900_000])) for _ in range(n % 5)]
        for n in range(200)
    ]
    runs = [[(memory.data_ptr() + start, size) for start, size in run] for run in places]
    stream = torch.cuda.current_stream().cuda_stream
    assert DeviceDigests(torch.device("cuda", 0)).start(runs, stream).values() == [
        crc32c(b"".join(data[start : start + size].tobytes() for start, size in run))
        for run in places
    ]
