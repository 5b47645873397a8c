"""For the workers of engines, by `worker_extension_cls="session_faults.Faults"`: faults on demand.

Each is met by transfers from then on, until another is asked for.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from typing import Any

from extension import Extension

from thaw.vllm.kv import transfers
from thaw.vllm.kv.transfers import Transfers

_load, _freeze, _digests = Transfers._load, Transfers._freeze, transfers.written_digests


class Faults(Extension):
    def meet(self, verb: str, argument: Any = None) -> None:
        """Meet a fault: "nothing", or one of those below."""
        Transfers._load, Transfers._freeze = _load, _freeze
        transfers.written_digests = _digests
        FAULTS[verb](argument)


def _before(method: str, fault: Callable[[], None]) -> None:
    plain = {"_load": _load, "_freeze": _freeze}[method]

    def moving(self: Transfers, order: Any) -> Any:
        fault()
        return plain(self, order)

    setattr(Transfers, method, moving)


def _remove(path: str) -> None:
    def remove() -> None:
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.exists(path):
            os.unlink(path)

    _before("_load", remove)


def _raise(error: BaseException) -> Callable[[], None]:
    def fault() -> None:
        raise error

    return fault


def _kill_in_freeze(_: Any) -> None:
    def die(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    transfers.written_digests = die


FAULTS: dict[str, Callable[[Any], None]] = {
    "nothing": lambda _: None,
    "slow loads": lambda seconds: _before("_load", lambda: time.sleep(seconds)),
    "slow freezes": lambda seconds: _before("_freeze", lambda: time.sleep(seconds)),
    "gone": _remove,
    "odd": lambda _: _before("_load", _raise(RuntimeError("nobody thought of this"))),
    "killed": _kill_in_freeze,
}
