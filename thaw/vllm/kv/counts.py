"""Counters of sessions, which vLLM takes from its scheduler and workers to Prometheus."""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
    KVConnectorPromMetrics,
    KVConnectorStats,
)

_MISSES = "misses"
_COUNTERS = {
    "loads": ("vllm:thaw_session_loads", "Loads of sessions, one a rank."),
    "load_tokens": ("vllm:thaw_session_tokens", "Tokens whose prefill was skipped."),
    "load_bytes": ("vllm:thaw_session_load_bytes", "Bytes loaded from sessions."),
    "load_seconds": ("vllm:thaw_session_load_seconds", "Seconds that loads took."),
    "load_failures": (
        "vllm:thaw_session_load_failures",
        "Loads that failed, computed again.",
    ),
    "freezes": ("vllm:thaw_session_freezes", "Sessions frozen, one a rank."),
    "freeze_bytes": ("vllm:thaw_session_freeze_bytes", "Bytes frozen to sessions."),
    "freeze_seconds": ("vllm:thaw_session_freeze_seconds", "Seconds that freezes took."),
    "freeze_failures": ("vllm:thaw_session_freeze_failures", "Freezes that failed."),
}


class Counts(KVConnectorStats):
    """Counts since they were taken for the last time: numbers by name, misses by reason."""

    data: dict[str, Any]

    def add(self, name: str, count: float = 1) -> None:
        self.data[name] = self.data.get(name, 0) + count

    def miss(self, reason: str) -> None:
        misses = self.data.setdefault(_MISSES, {})
        misses[reason] = misses.get(reason, 0) + 1

    def reset(self) -> None:
        self.data = {}

    def take(self) -> Counts | None:
        """Return the counts, if there are any, and begin anew."""
        taken = Counts(self.data)
        self.reset()
        return None if taken.is_empty() else taken

    def aggregate(self, other: KVConnectorStats) -> Counts:
        joined = Counts({**self.data, _MISSES: dict(self.data.get(_MISSES, {}))})
        for name, value in other.data.items():
            if name == _MISSES:
                for reason, count in value.items():
                    found = joined.data[_MISSES]
                    found[reason] = found.get(reason, 0) + count
            else:
                joined.add(name, value)
        return joined

    def reduce(self) -> dict[str, int | float]:
        said = {name: value for name, value in self.data.items() if name != _MISSES}
        misses = self.data.get(_MISSES, {})
        return said | {f"missed for {reason}": count for reason, count in misses.items()}

    def is_empty(self) -> bool:
        return not any(self.data.values())


class Metrics(KVConnectorPromMetrics):
    """The counters as Prometheus has them."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._counters = {
            name: self._made(metric, said, self._labelnames)
            for name, (metric, said) in _COUNTERS.items()
        }
        self._misses = self._made(
            "vllm:thaw_session_misses",
            "Sessions that begin like a request and did not serve it, by reason.",
            [*self._labelnames, "reason"],
        )

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        labels = self.per_engine_labelvalues[engine_idx]
        for name, value in transfer_stats_data.items():
            if name != _MISSES:
                self._counters[name].labels(*labels).inc(value)
        for reason, count in transfer_stats_data.get(_MISSES, {}).items():
            self._misses.labels(*labels, reason).inc(count)

    def _made(self, name: str, said: str, labels: list[str]) -> Any:
        return self._counter_cls(name=name, documentation=said, labelnames=labels)
