"""The model loaders that vLLM calls: one restores a snapshot, one freezes what another loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from thaw_format import Snapshot
from torch import nn
from vllm.config import LoadConfig, ModelConfig, VllmConfig, replace
from vllm.distributed import get_world_group
from vllm.model_executor.model_loader import get_model_loader
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

from ...errors import MismatchError
from ...plugins.opening import open_snapshot
from ...reports import FreezeReport
from ..answers import ANSWERED, REPORT
from ..causes import LeavingCause
from ..options import FreezeOptions, LoadOptions
from .additions import (
    add_attributes,
    add_parameters,
    parameter_names,
    tie_as_frozen,
    unknown_additions,
)
from .configuration import keep_configuration
from .identity import LOADED, PROCESSED, check_identity, identify, rank_shard, stage_of
from .kernels import check_verified, kernels_of
from .materializing import convert_caches, deferred_layers
from .processing import Unfilled, processing
from .transfer import compare_state, freeze_state, prepare_state

_DRAFT = "draft"
"""What vLLM says of the configuration of a model that drafts for another."""


class ThawModelLoader(BaseModelLoader):
    """Builds a model and fills it from a snapshot.

    A `loaded` snapshot takes the place of the checkpoint, and vLLM then processes the weights as
    it always does. For a `processed` one vLLM builds and processes the model first, whose memory
    is not initialized then, so that all tensors are there as they are in a live engine.
    """

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(load_config)
        self._options = LoadOptions.parse(load_config.model_loader_extra_config)
        self._snapshot: Snapshot | None = None
        self._unfilled: Unfilled | None = None

    def download_model(self, model_config: ModelConfig) -> None:
        """Do nothing: snapshots are local."""

    def load_model(self, vllm_config: VllmConfig, model_config: ModelConfig, **more: Any) -> Any:
        """Build the model that a snapshot fits, and fill it."""
        if model_config.runner_type == _DRAFT:
            raise MismatchError(
                "a draft model is loaded with load_format='thaw' too, and the snapshot is of the "
                "model that it drafts for: give speculative_config a draft_load_config with a "
                "load_format of its own"
            )
        rank = rank_shard(vllm_config, get_world_group().rank).rank
        with LeavingCause(self._options.errors_to, rank), self._opened(rank) as snapshot:
            stage = stage_of(snapshot)
            # Before any memory is taken; kernels are known only when the model is there.
            expected = identify(vllm_config, model_config, rank, LOADED)
            check_identity(snapshot, expected)
            tie_as_frozen(model_config, snapshot, retie=stage == LOADED)
            if stage == LOADED:
                return super().load_model(vllm_config, model_config, **more)
            with processing(snapshot) as self._unfilled:
                model = super().load_model(vllm_config, model_config, **more)
            check_identity(snapshot, identify(vllm_config, model_config, rank, stage))
            check_verified(kernels_of(model), allow=self._options.allow_unverified)
            convert_caches(model, snapshot)
            add_attributes(model, snapshot)
            self._restore(model)
        return model

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        """Fill a model that vLLM has built and not processed yet."""
        if self._snapshot is None:
            raise MismatchError(
                "load_format='thaw' fills a model when it is built; to fill a live engine, call "
                "thaw_vllm.restore_engine"
            )
        add_parameters(model, self._snapshot)
        if stage_of(self._snapshot) == PROCESSED:
            assert self._unfilled is not None
            self._unfilled.begin(model)
        elif deferred := deferred_layers(model):
            raise MismatchError.of(
                "vLLM quantizes these layers while it loads them, so there is nothing to restore "
                "before: freeze a live engine with thaw_vllm.freeze_engine",
                deferred,
            )
        else:
            self._restore(model)

    def _restore(self, model: nn.Module) -> None:
        assert self._snapshot is not None
        prepare_state(model, self._snapshot, backend=self._options.backend).restore()
        if self._options.verify and (differences := compare_state(model, self._snapshot)):
            raise MismatchError.of("restored tensors differ from the snapshot", differences)

    @contextmanager
    def _opened(self, rank: int) -> Iterator[Snapshot]:
        with open_snapshot(self._options.snapshot, rank=rank) as snapshot:
            self._snapshot = snapshot
            try:
                yield snapshot
            finally:
                self._snapshot = None


class FreezingModelLoader(BaseModelLoader):
    """Loads weights as another loader does and freezes them before vLLM processes them."""

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(load_config)
        self._options = FreezeOptions.parse(load_config.model_loader_extra_config)
        self._inner = get_model_loader(
            replace(
                load_config,
                load_format=self._options.load_format,
                model_loader_extra_config=dict(self._options.extra_config or {}),
            )
        )
        self._vllm_config: VllmConfig | None = None

    def download_model(self, model_config: ModelConfig) -> None:
        self._inner.download_model(model_config)

    def load_model(self, vllm_config: VllmConfig, model_config: ModelConfig, **more: Any) -> Any:
        self._vllm_config = vllm_config
        # Building the model changes it.
        keep_configuration(model_config)
        with LeavingCause(self._options.errors_to, get_world_group().rank):
            return super().load_model(vllm_config, model_config, **more)

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        assert self._vllm_config is not None
        if deferred := deferred_layers(model):
            raise MismatchError.of(
                "vLLM quantizes these layers while it loads them; freeze them as 'processed'",
                deferred,
            )
        built = parameter_names(model)
        self._inner.load_weights(model, model_config)
        report: FreezeReport | Exception
        try:
            if unknown := unknown_additions(model, built):
                raise MismatchError.of(
                    "loading this checkpoint makes parameters, or drops some, and thaw does not "
                    "know how to do the same: freeze a live engine with thaw_vllm.freeze_engine",
                    unknown,
                )
            report = self._freeze(model, self._vllm_config, model_config)
        except ANSWERED as error:
            # What a worker raises while it starts does not reach who started it.
            report = error
        setattr(model, REPORT, report)

    def _freeze(
        self, model: nn.Module, vllm_config: VllmConfig, model_config: ModelConfig
    ) -> FreezeReport:
        rank = get_world_group().rank
        return freeze_state(
            model,
            self._options.freeze_to,
            stage=LOADED,
            identity=identify(vllm_config, model_config, rank, LOADED),
            shard=rank_shard(vllm_config, rank),
            snapshot_id=self._options.snapshot_id,
            backend=self._options.backend,
        )
