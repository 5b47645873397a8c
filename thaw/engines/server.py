"""vLLM's OpenAI server, as `python -m` runs it, in a process that has imported it already."""

from __future__ import annotations

import os
import runpy
import warnings

MODULE = "vllm.entrypoints.openai.api_server"


def main() -> None:
    """Serve, with the arguments in `sys.argv`, until told to stop."""
    # vLLM's own choice is to spawn, which imports everything again.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "fork")
    with warnings.catch_warnings():
        # It is in `sys.modules` already, which is the point.
        warnings.filterwarnings("ignore", message=f".*{MODULE}.*", category=RuntimeWarning)
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
