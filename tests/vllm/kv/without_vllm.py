"""What of vLLM the modules of sessions are built on, made up: engines prove them on the real one.

vLLM takes long to import, warns, and need not be there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any

_PLACE = "vllm.distributed.kv_transfer.kv_connector.v1"
_MODULES = ("scheduler", "counts", "orders", "transfers")


@dataclass
class KVConnectorStats:
    data: dict[str, Any] = field(default_factory=dict)


class KVConnectorPromMetrics:
    """Takes, of the types that it is given, the one by the name of `Counter`."""

    def __init__(self, config: Any, types: Any, labels: list[str], values: Any) -> None:
        self._counter_cls = types["Counter"]
        self._labelnames, self.per_engine_labelvalues = labels, values


class KVConnectorMetadata:
    pass


class KVConnectorWorkerMetadata:
    pass


@contextmanager
def _made_up() -> Iterator[None]:
    base, metrics = ModuleType(f"{_PLACE}.base"), ModuleType(f"{_PLACE}.metrics")
    for module, classes in (
        (base, (KVConnectorMetadata, KVConnectorWorkerMetadata)),
        (metrics, (KVConnectorStats, KVConnectorPromMetrics)),
    ):
        for each in classes:
            setattr(module, each.__name__, each)
    parts = _PLACE.split(".")
    packages = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    modules = {name: ModuleType(name) for name in packages}
    modules |= {base.__name__: base, metrics.__name__: metrics}
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


with _made_up():
    for _name in _MODULES:
        import_module(f"thaw.vllm.kv.{_name}")

from thaw.vllm.kv import releases  # noqa: E402

releases.none_hash = lambda: bytes(32)
