"""What commands about engines need, found out before vLLM is imported, which takes long."""

from __future__ import annotations

import errno
import os
from importlib.util import find_spec
from pathlib import Path

from .errors import MissingEngineError


def check_needs(model: str, path: Path, who: str) -> None:
    """See that there is what a command about an engine begins with.

    Args:
        model: a folder, if it begins like a path, or a name that vLLM knows.
        who: needs vLLM.

    Raises:
        FileNotFoundError: the path, or the folder of the model, is not there.
        MissingEngineError: vLLM is not installed.
    """
    needed = [str(path), *([model] if model.startswith((".", "/")) else [])]
    for each in needed:
        if not Path(each).exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), each)
    check_vllm(who)


def check_vllm(who: str) -> None:
    """See that vLLM is installed.

    Raises:
        MissingEngineError: it is not.
    """
    if find_spec("vllm") is None:
        raise MissingEngineError(who)
