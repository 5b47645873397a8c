"""What was shown to process weights so that snapshots of the result are right.

A class is on a list here when an engine of it, frozen live and loaded again, decoded the same
tokens by the same logprobs and held the same tensors; benchmarks/engines.md shows which engines.
"""

from __future__ import annotations

VERIFIED = frozenset(
    {
        *("UnquantizedLinearMethod", "UnquantizedEmbeddingMethod"),
        *("UnquantizedFusedMoEMethod", "TritonExperts", "CPUUnquantizedExperts"),
        *("Fp8LinearMethod", "Fp8KVCacheMethod", "CutlassFP8ScaledMMLinearKernel"),
        *("Fp8PerTensorOnlineLinearMethod", "Fp8PerTensorOnlineMoEMethod"),
        *("CutlassFp8BlockScaledMMKernel", "MarlinExperts"),
        *("Mxfp8OnlineLinearMethod", "MarlinMxfp8LinearKernel"),
        *("AutoGPTQLinearMethod", "AutoAWQMarlinLinearMethod"),
        *("MacheteLinearKernel", "MarlinLinearKernel"),
        *("CompressedTensorsLinearMethod", "CompressedTensorsW8A8Fp8"),
        *("CompressedTensorsKVCacheMethod", "Fp8MoEMethod"),
    }
)
"""Methods, and kernels that they lay weights out for."""

READERS = frozenset(
    {
        # Whether there are scales, and whether those of layers that vLLM fuses have to be made one.
        *("BaseKVCacheMethod", "Fp8LinearMethod"),
        # Nothing: scales are kept as floats too.
        "CompressedTensorsKVCacheMethod",
        # Whether to warn of scales that differ.
        "Fp8MoEMethod",
        # Nothing: values are packed anew by way of the host.
        "MarlinLinearKernel",
    }
)
"""Classes that look at values while they process, and let nothing but tensors and floats depend on
them."""
