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
        *("AutoGPTQLinearMethod", "AutoAWQMarlinLinearMethod", "MacheteLinearKernel"),
    }
)
"""Methods, and kernels that they lay weights out for."""

READERS = frozenset({"Fp8LinearMethod", "Fp8KVCacheMethod"})
"""Those that look at values while they process, and let nothing but tensors and floats depend on
them: whether scales of layers that vLLM fuses have to be made one, and whether there are any."""
