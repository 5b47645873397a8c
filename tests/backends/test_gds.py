"""The GDS backends: the kit on a device, and on any machine what they promise about their path."""

from __future__ import annotations

import importlib
import itertools
import json
import subprocess
import sys
import threading
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thaw_format import Chunks, Digests, FileSource

import thaw
from thaw.errors import TransferError
from thaw.plugins.choosing import select_backend
from thaw.plugins.host import ENTRY_POINT_GROUP, load
from thaw.testing import BackendTests, Sample

pytest.importorskip("thaw_gds")

import thaw_gds
from thaw_gds import GdsBackend, GdsCompatBackend, moves, probing

CUDA = torch.device("cuda")
NOWHERE = Path("/nonexistent")


@pytest.mark.gpu
class TestGdsCompat(BackendTests):
    device = "cuda"
    settings: ClassVar[dict[str, Any]] = {}

    def make_backend(self) -> thaw.Backend:
        return GdsCompatBackend(**self.settings)

    def test_an_interrupt_leaves_nothing_behind(self, backend: thaw.Backend, large: Sample) -> None:
        plan = thaw.ReadPlan(large.empty_extents(), large.digests)

        def interrupt(nbytes: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            backend.read(large.write_file(), plan, progress=interrupt)
        threads = [each.name for each in threading.enumerate()]
        assert not any(name.startswith("thaw-gds") for name in threads)
        backend.read(large.write_file(), plan)
        large.assert_read(plan.extents)

    def test_it_says_what_ran_and_leaves_kvikio_as_it_was(
        self, backend: thaw.Backend, tmp_path: Path
    ) -> None:
        defaults = importlib.import_module("kvikio.defaults")
        names = ("bounce_buffer_size", "compat_mode", "gds_threshold", "num_threads", "task_size")
        before = [defaults.get(name) for name in names]
        tensors = {f"t{i}": torch.randn(1 + i * 99_991, device="cuda") for i in range(20)}
        frozen = thaw.freeze(tensors, tmp_path / "x.thaw", backend=backend)
        restored = thaw.restore(tmp_path / "x.thaw", device="cuda", backend=backend)
        assert frozen.route == restored.report.route == "gds-compat"
        for name, tensor in tensors.items():
            assert torch.equal(restored[name], tensor)
        assert [defaults.get(name) for name in names] == before


class TestGdsCompatInSmallPieces(TestGdsCompat):
    settings: ClassVar[dict[str, Any]] = {"piece_nbytes": 4096, "threads": 3}


@pytest.mark.gpu
class TestGds(BackendTests):
    device = "cuda"

    def make_backend(self) -> thaw.Backend:
        return GdsBackend()


def test_it_is_a_plugin_that_brings_two_backends() -> None:
    loaded = load(entry_points(group=ENTRY_POINT_GROUP, name="gds"))
    assert loaded.broken == []
    assert {loaded.distributions[name] for name in ("gds", "gds-compat")} == {"thaw-snapshot-gds"}


def test_importing_it_imports_no_gpu_library() -> None:
    code = "import sys, thaw_gds; sys.exit(bool({'cupy', 'kvikio'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make torch and the search for packages look like those of a machine that has everything."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(probing, "find_spec", lambda name: name)
    monkeypatch.setattr(probing, "without_library", lambda *, cufile: "")
    for variable in ("CUFILE_FORCE_COMPAT_MODE", "CUFILE_USE_PCIP2PDMA", "CUFILE_ENV_PATH_JSON"):
        monkeypatch.delenv(variable, raising=False)


def cufile_json(folder: Path, **properties: bool) -> Path:
    path = folder / "cufile.json"
    text = json.dumps({"logging": {"dir": "//srv/logs"}, "properties": properties})
    path.write_text(f"// a comment\n{text} /* another */\n")
    return path


def gds(nvidia_fs: Path, config: Path = NOWHERE) -> thaw.Support:
    return GdsBackend(nvidia_fs=nvidia_fs, cufile_json=config).probe(CUDA)


class TestProbe:
    @pytest.mark.parametrize("missing", ["kvikio", "cupy"])
    @pytest.mark.parametrize("backend", [GdsBackend(), GdsCompatBackend()])
    @pytest.mark.parametrize(("version", "extra"), [("12.8", "cuda12"), ("13.0", "cuda13")])
    def test_says_what_to_install(
        self, cuda: None, monkeypatch: Any, missing: str, backend: Any, version: str, extra: str
    ) -> None:
        monkeypatch.setattr(probing, "find_spec", lambda name: None if name == missing else name)
        monkeypatch.setattr(torch.version, "cuda", version)
        support = backend.probe(CUDA)
        assert not support.available
        assert {"kvikio": "KvikIO", "cupy": "CuPy"}[missing] in support.reason
        assert f"pip install 'thaw-snapshot-gds[{extra}]'" in support.reason

    @pytest.mark.parametrize("backend", [GdsBackend(), GdsCompatBackend()])
    def test_says_that_there_is_no_device(self, cuda: None, monkeypatch: Any, backend: Any) -> None:
        assert "sees 1 CUDA devices" in backend.probe(torch.device("cuda", 1)).reason
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert backend.probe(CUDA).reason == "torch sees no CUDA device"
        assert "'cpu'" in backend.probe(torch.device("cpu")).reason

    def test_says_that_nvidia_fs_is_missing_and_how_to_allow_posix(self, cuda: None) -> None:
        support = gds(NOWHERE)
        assert not support.available
        assert "nvidia-fs is not loaded" in support.reason
        assert 'backend="gds-compat"' in support.reason

    @pytest.mark.parametrize("properties", [{}, {"allow_compat_mode": True}])
    def test_a_loaded_module_proves_nothing_while_cufile_may_fall_back(
        self, cuda: None, tmp_path: Path, properties: dict[str, bool]
    ) -> None:
        for config in (NOWHERE, cufile_json(tmp_path, **properties)):
            support = gds(tmp_path, config)
            assert not support.available
            assert '"allow_compat_mode": false' in support.reason
            assert str(config) in support.reason

    def test_a_way_for_dma_without_a_fallback_is_gds(self, cuda: None, tmp_path: Path) -> None:
        config = cufile_json(tmp_path, allow_compat_mode=False)
        assert gds(tmp_path, config) == thaw.Support(True, GdsBackend.way, "gds")
        assert not gds(NOWHERE, config).available
        config = cufile_json(tmp_path, allow_compat_mode=False, use_pci_p2pdma=True)
        assert gds(NOWHERE, config).route == "gds"

    @pytest.mark.parametrize("name", ["force_compat_mode", "posix_io_mode", "gds_fallback_io"])
    def test_settings_that_force_posix(self, cuda: None, tmp_path: Path, name: str) -> None:
        support = gds(tmp_path, cufile_json(tmp_path, allow_compat_mode=False, **{name: True}))
        assert not support.available
        assert name in support.reason

    def test_cufile_s_own_variables(self, cuda: None, tmp_path: Path, monkeypatch: Any) -> None:
        config = cufile_json(tmp_path, allow_compat_mode=False)
        monkeypatch.setenv("CUFILE_ENV_PATH_JSON", str(config))
        assert GdsBackend(nvidia_fs=tmp_path).probe(CUDA).available
        monkeypatch.setenv("CUFILE_FORCE_COMPAT_MODE", "true")
        assert "CUFILE_FORCE_COMPAT_MODE" in gds(tmp_path, config).reason

    @pytest.mark.parametrize("text", ["{", "[]", '{"properties": 1}', "\x00"])
    def test_a_configuration_that_makes_no_sense(
        self, cuda: None, tmp_path: Path, text: str
    ) -> None:
        (tmp_path / "cufile.json").write_text(text)
        assert "cannot be understood" in gds(tmp_path, tmp_path / "cufile.json").reason

    def test_comments_do_not_count(self, cuda: None, tmp_path: Path) -> None:
        path = tmp_path / "cufile.json"
        path.write_text('{"properties": {\n// "allow_compat_mode": false\n}}')
        assert "allow_compat_mode" in gds(tmp_path, path).reason

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (
                RuntimeError('Failure finding "libcufile.so.0"\nmore'),
                "cuFile library was not found",
            ),
            (OSError("libkvikio.so: no such file"), "cannot be loaded: libkvikio.so"),
            (ImportError(), "cannot be loaded: ImportError"),
        ],
    )
    def test_a_library_that_does_not_load(
        self, monkeypatch: Any, error: BaseException, reason: str
    ) -> None:
        class Broken:
            def find_spec(self, name: str, *_: object) -> None:
                if name in {"cupy", "kvikio"}:
                    raise error

        for name in [name for name in sys.modules if name.split(".")[0] in {"cupy", "kvikio"}]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
        found = probing.without_library(cufile=True)
        assert reason in found
        assert "\n" not in found


class TestChoice:
    @pytest.fixture
    def snapshot(self, tmp_path: Path) -> Path:
        thaw.freeze({"x": torch.arange(10)}, tmp_path / "x.thaw")
        return tmp_path / "x.thaw"

    def test_gds_never_falls_back(self, snapshot: Path) -> None:
        backend = GdsBackend(nvidia_fs=NOWHERE, cufile_json=NOWHERE)
        with pytest.raises(thaw.UnavailableBackendError, match="'gds'"):
            thaw.restore(snapshot, device="cuda", backend=backend)

    @pytest.mark.parametrize("backend", [GdsBackend(nvidia_fs=NOWHERE), GdsCompatBackend()])
    def test_not_even_when_asked_to_its_face(self, snapshot: Path, backend: thaw.Backend) -> None:
        memory = torch.zeros(8, dtype=torch.uint8)
        plan = thaw.ReadPlan(thaw.Extents.over([4096], [memory]))
        with pytest.raises(thaw.UnavailableBackendError, match="'cpu'"):
            backend.read(FileSource(snapshot), plan)
        assert not memory.any()

    def test_auto_may_pick_gds_but_not_gds_compat(
        self, snapshot: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        registry = load([])
        for backend in thaw_gds.thaw_register_backends():
            able = thaw.Support(True, "as if", backend.name)
            monkeypatch.setattr(type(backend), "probe", lambda self, device, able=able: able)
            registry.backends[backend.name] = backend
        monkeypatch.setattr("thaw.plugins.choosing.registry", lambda: registry)
        cpu = torch.device("cpu")
        assert select_backend("auto", "read", cpu, snapshot).name == "gds"
        del registry.backends["gds"]
        assert select_backend("auto", "read", cpu, snapshot).name == "reference"

    def test_what_is_no_file_is_refused(self) -> None:
        source = SimpleNamespace(path=NOWHERE, nbytes=99)
        memory = torch.zeros(8, dtype=torch.uint8)
        with pytest.raises(TransferError, match=f"^{NOWHERE}: .*bytes 5 to 13"):
            GdsBackend().read(source, thaw.ReadPlan(thaw.Extents.over([5], [memory])))

    @pytest.mark.parametrize("wrong", [{"threads": 0}, {"piece_nbytes": 5000}, {"piece_nbytes": 0}])
    def test_settings_that_cannot_work(self, wrong: dict[str, int]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            GdsCompatBackend(**wrong)


sizes = st.one_of(st.integers(1, 5000), st.integers(1, 2_000_000))


@st.composite
def plans(draw: st.DrawFn) -> thaw.ReadPlan:
    """Draw extents, gaps of any size between them, and chunks over all."""
    base, extents = draw(st.integers(0, 9000)), []
    at = base
    for gap, nbytes in draw(st.lists(st.tuples(st.just(0) | sizes, sizes), min_size=1, max_size=6)):
        at += gap
        extents.append(thaw.Extent(at, torch.empty(nbytes, dtype=torch.uint8)))
        at += nbytes
    chunks = Chunks(base, at - base + draw(st.integers(0, 9000)), draw(st.sampled_from(CHUNKS)))
    digests = draw(st.sampled_from([None, Digests(chunks, range(len(chunks)))]))
    return thaw.ReadPlan(thaw.Extents.of(extents), digests)


CHUNKS = [4096, 65536, 1 << 20, 1 << 30]
pieces = st.sampled_from([4096, 65536, 4 << 20])


def spans_and_moves(plan: thaw.ReadPlan, piece_nbytes: int) -> tuple[Any, list[moves.Move]]:
    return thaw.runs_to_read(plan), list(moves.plan_moves(thaw.cut_read(plan, piece_nbytes)))


@settings(deadline=None)
@given(plans(), pieces)
def test_moves_cover_every_span_once_and_in_order(plan: thaw.ReadPlan, piece_nbytes: int) -> None:
    spans, planned = spans_and_moves(plan, piece_nbytes)
    joined: list[tuple[int, int]] = []
    for move in planned:
        assert move.nbytes > 0
        assert move.offset // piece_nbytes == (move.offset + move.nbytes - 1) // piece_nbytes
        start = joined.pop()[0] if joined and joined[-1][1] == move.offset else move.offset
        joined.append((start, move.offset + move.nbytes))
    assert joined == spans
    assert sum(move.wanted_nbytes for move in planned) == plan.nbytes


@settings(deadline=None)
@given(plans(), pieces)
def test_no_two_moves_share_a_page_of_a_span(plan: thaw.ReadPlan, piece_nbytes: int) -> None:
    spans, planned = spans_and_moves(plan, piece_nbytes)
    edges = {edge for span in spans for edge in span}
    for move in planned:
        for edge in (move.offset, move.offset + move.nbytes):
            assert edge % moves.PAGE_NBYTES == 0 or edge in edges


@settings(deadline=None)
@given(plans(), pieces)
def test_every_byte_is_bound_to_its_place(plan: thaw.ReadPlan, piece_nbytes: int) -> None:
    found: dict[int, list[tuple[int, int]]] = {extent.offset: [] for extent in plan.extents}
    starts = {extent.offset: extent.memory.data_ptr() for extent in plan.extents}
    for move in spans_and_moves(plan, piece_nbytes)[1]:
        places = list(move.copies)
        if move.address:
            places = [(0, move.address, move.nbytes)]
        for at, address, nbytes in places:
            offset = move.offset + at
            begin = max(start for start in starts if start <= offset)
            assert address - starts[begin] == offset - begin
            found[begin].append((offset, offset + nbytes))
    for extent in plan.extents:
        ends = [end for _, end in found[extent.offset]]
        assert [start for start, _ in found[extent.offset]] == [extent.offset, *ends[:-1]]
        assert ends[-1] == extent.end


@settings(deadline=None)
@given(plans(), pieces, st.sampled_from([4 << 20, 32 << 20]))
def test_batches_fit_and_their_runs_cover_chunks(
    plan: thaw.ReadPlan, piece_nbytes: int, staging_nbytes: int
) -> None:
    _, planned = spans_and_moves(plan, piece_nbytes)
    grouped = list(moves.batches(planned, 5_000_000, staging_nbytes))
    assert [move for batch in grouped for move in batch.moves] == planned
    covered: dict[int, int] = {}
    for batch in grouped:
        assert batch.staged_nbytes <= staging_nbytes
        taken = [
            (slot, slot + move.nbytes)
            for move, slot in zip(batch.moves, batch.slots, strict=True)
            if not move.address
        ]
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(taken))
        if plan.digests:
            for run in moves.runs_of(batch, 1 << 40, plan.digests.chunks):
                covered[run.chunk] = covered.get(run.chunk, 0) + run.nbytes
    for chunk, nbytes in covered.items():
        assert plan.digests
        start, end = plan.digests.chunks.span(chunk)
        assert nbytes == end - start
