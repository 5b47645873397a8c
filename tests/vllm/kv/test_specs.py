"""Which groups of vLLM's layers a session can hold; the others are refused by name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.vllm, pytest.mark.slow]  # importing vLLM takes long
interface = pytest.importorskip("vllm.v1.kv_cache_interface")
specs = pytest.importorskip("thaw.vllm.kv.specs", exc_type=ImportError)
from thaw.errors import MismatchError  # noqa: E402
from thaw.vllm.kv.layout import LayerCache  # noqa: E402

HEADS: dict[str, Any] = {
    "block_size": 16,
    "num_kv_heads": 2,
    "head_size": 64,
    "dtype": torch.bfloat16,
}
LATENT = HEADS | {"num_kv_heads": 1, "head_size": 576}
NAMES = ("layers.0.attn", "layers.1.attn")


def group(spec: Any, **more: Any) -> Any:
    return SimpleNamespace(layer_names=list(NAMES), kv_cache_spec=spec, **more)


def made(name: str, **values: Any) -> Any:
    """Make a specification; releases differ in which there are."""
    if not hasattr(interface, name):
        pytest.skip(f"this vLLM has no {name}")
    return getattr(interface, name)(**values)


def uniform(*each: Any) -> Any:
    return interface.UniformTypeKVCacheSpecs(
        block_size=16, kv_cache_specs=dict(zip(NAMES, each, strict=True))
    )


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("FullAttentionSpec", HEADS, ("full", 16, None)),
        # With the hybrid manager off blocks are kept for all tokens, whatever is attended.
        ("FullAttentionSpec", HEADS | {"sliding_window": 128}, ("full", 16, None)),
        ("FullAttentionSpec", HEADS | {"attention_chunk_size": 64}, ("full", 16, None)),
        ("MLAAttentionSpec", LATENT, ("full", 16, None)),
        ("SlidingWindowSpec", HEADS | {"sliding_window": 128}, ("sliding-window", 16, 128)),
        ("SlidingWindowMLASpec", LATENT | {"sliding_window": 128}, ("sliding-window", 16, 128)),
    ],
)
def test_groups_are_described(name: str, values: Any, expected: tuple[Any, ...]) -> None:
    spec = made(name, **values)
    for each in (spec, uniform(spec, spec)):
        found = specs.group_of(group(each))
        assert (found.kind, found.block_tokens, found.window, found.layers) == (*expected, NAMES)


def test_a_window_has_the_tokens_that_vllm_keeps_behind_it() -> None:
    """They are computed once more by drafts of several layers; a load has to bring them as well."""
    if not hasattr(interface.SlidingWindowSpec, "extra_retained_tokens"):
        pytest.skip("this vLLM keeps none")
    spec = interface.SlidingWindowSpec(**HEADS, sliding_window=128, extra_retained_tokens=2)
    assert specs.group_of(group(spec)).window == 130


SHAPES = ((4, 8), (2, 16, 8))
MAMBA: dict[str, Any] = {
    "block_size": 32,
    "shapes": SHAPES,
    "dtypes": (torch.bfloat16, torch.float32),
    "mamba_cache_mode": "align",
    "page_size_padded": 4096,
}


def test_a_state_is_of_several_tensors() -> None:
    spec = made("MambaSpec", **MAMBA)
    found = specs.group_of(group(spec))
    assert (found.kind, found.block_tokens, found.window) == ("state", 32, None)
    assert found.layers == tuple(f"{name}.state.{part}" for name in NAMES for part in (0, 1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mamba_cache_mode": "none"}, "vLLM caches no prefix with mamba_cache_mode='none'"),
        ({"num_speculative_blocks": 1}, "states of drafts too.*or without speculative_config"),
    ],
)
def test_states_of_no_prefix_and_of_drafts_are_refused(values: Any, message: str) -> None:
    with pytest.raises(MismatchError, match=f"'layers.0.attn' and the like, .*{message}"):
        specs.group_of(group(made("MambaSpec", **MAMBA | values)))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("ChunkedLocalAttentionSpec", HEADS | {"attention_chunk_size": 64}),
        ("RSWASpec", HEADS | {"rswa_window": 64}),
        ("HiddenStateCacheSpec", LATENT),
        ("SinkFullAttentionSpec", HEADS | {"sink_len": 4}),
        ("CrossAttentionSpec", HEADS),
        ("EncoderOnlyAttentionSpec", HEADS),
        ("CircularBufferSpec", HEADS),
    ],
)
def test_what_a_session_cannot_hold_is_refused_by_name(name: str, values: Any) -> None:
    spec = made(name, **values)
    for each in (spec, uniform(spec, spec)):
        with pytest.raises(MismatchError, match=f"'layers.0.attn' and the like, which.*{name}"):
            specs.group_of(group(each))


def test_chunks_are_refused_with_the_way_that_there_is() -> None:
    spec = interface.ChunkedLocalAttentionSpec(**HEADS, attention_chunk_size=64)
    with pytest.raises(MismatchError, match="connector, or with disable_hybrid_kv_cache_manager="):
        specs.group_of(group(spec))


def test_what_a_plugin_derives_is_refused_by_name() -> None:
    class Compressed(interface.FullAttentionSpec):  # type: ignore[misc]
        pass

    with pytest.raises(MismatchError, match="which vLLM calls Compressed"):
        specs.group_of(group(Compressed(**HEADS)))


def test_a_group_of_layers_that_differ_is_refused() -> None:
    full = interface.FullAttentionSpec(**HEADS)
    window = interface.SlidingWindowSpec(**HEADS, sliding_window=128)
    with pytest.raises(MismatchError, match=r"of kinds that differ \(\('full', 16, None\); "):
        specs.group_of(group(uniform(full, window)))


@pytest.mark.parametrize("more", [{"host_resident": True}, {"enable_kv_transfer": False}])
def test_what_vllm_keeps_out_of_transfers_is_refused(more: Any) -> None:
    with pytest.raises(MismatchError, match="keeps out of transfers"):
        specs.group_of(group(interface.FullAttentionSpec(**HEADS), **more))


def test_a_prefix_that_vllm_computes_again_is_refused() -> None:
    if not hasattr(interface.SlidingWindowMLASpec, "prefix_cacheable"):
        pytest.skip("this vLLM has no bounded replay")
    spec = interface.SlidingWindowMLASpec(**LATENT, sliding_window=128, bounded_replay=True)
    with pytest.raises(MismatchError, match="of whose SlidingWindowMLASpec vLLM caches no prefix"):
        specs.group_of(group(spec))


def test_a_rank_without_layers_of_a_group_is_described() -> None:
    spec = interface.FullAttentionSpec(**HEADS)
    found = specs.group_of(SimpleNamespace(layer_names=[], kv_cache_spec=spec))
    assert (found.kind, found.layers) == ("full", ())
    with pytest.raises(MismatchError, match="layers of other ranks"):
        specs.group_of(
            SimpleNamespace(layer_names=[], kv_cache_spec=made("CircularBufferSpec", **HEADS))
        )


def cache(tokens: int) -> LayerCache:
    """Make three blocks of so many tokens each."""
    return LayerCache.of(
        torch.zeros(3, 2, tokens, 128, dtype=torch.bfloat16),
        0,
        3,
        backend="CPU_ATTN",
        cache_dtype="auto",
    )


def test_a_cache_that_shows_less_than_its_blocks_is_refused() -> None:
    spec = interface.FullAttentionSpec(**HEADS)
    specs.check_blocks("layers.0.attn", [cache(16)], spec)
    with pytest.raises(MismatchError, match="has 8192 bytes, of which vLLM's CPU_ATTN shows 4096"):
        specs.check_blocks("layers.0.attn", [cache(8)], spec)


def test_a_state_that_shows_less_than_all_of_its_tensors_is_refused() -> None:
    spec = made("MambaSpec", **MAMBA)
    page = torch.zeros(3, 4096, dtype=torch.uint8)
    nbytes = (4 * 8 * 2, 2 * 16 * 8 * 4)
    begins = (0, nbytes[0])
    parts = [
        LayerCache.of(
            page[:, begin : begin + size].view(dtype).unflatten(1, shape),
            0,
            3,
            backend="GDN_ATTN",
            cache_dtype="auto",
        )
        for begin, size, dtype, shape in zip(begins, nbytes, spec.dtypes, SHAPES, strict=True)
    ]
    assert [each.row_stride for each in parts] == [4096, 4096]
    specs.check_blocks("layers.0.attn", parts, spec)
    with pytest.raises(MismatchError, match="has 1088 bytes, of which vLLM's GDN_ATTN shows 64"):
        specs.check_blocks("layers.0.attn", parts[:1], spec)


def configured(drafting: str | None = None, **config: Any) -> Any:
    return SimpleNamespace(
        cache_config=SimpleNamespace(
            enable_prefix_caching=config.pop("enable_prefix_caching", True),
            calculate_kv_scales=config.pop("calculate_kv_scales", False),
        ),
        speculative_config=SimpleNamespace(method=drafting) if drafting else None,
        parallel_config=SimpleNamespace(**config),
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"enable_prefix_caching": False}, "pass enable_prefix_caching=True"),
        ({"calculate_kv_scales": True}, "calculate_kv_scales"),
        ({"decode_context_parallel_size": 2}, "decode_context_parallel_size=2"),
        ({"prefill_context_parallel_size": 2}, "prefill_context_parallel_size=2"),
        ({"drafting": "eagle3"}, "with 'eagle3' drafts may have keys and values too"),
        ({"drafting": "what comes next"}, "leave out speculative_config"),
    ],
)
def test_engines_whose_blocks_no_session_can_hold_are_refused(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(MismatchError, match=message):
        specs.check_supported(configured(**config), SimpleNamespace(kv_cache_groups=[]))


@pytest.mark.parametrize("drafting", [None, "ngram", "suffix"])
def test_what_drafts_without_weights_is_not(drafting: str | None) -> None:
    specs.check_supported(configured(drafting=drafting), SimpleNamespace(kv_cache_groups=[]))


def test_what_a_model_makes_of_the_longest_request_is_said() -> None:
    rotary = torch.nn.Identity()
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Sequential(rotary))
    assert specs.positions_of(model) == "none"
    found = set()
    for long in (True, False):
        rotary.use_long_rope = long  # type: ignore[assignment]
        found.add(specs.positions_of(model))
    assert found == {"Identity.use_long_rope = True", "Identity.use_long_rope = False"}
