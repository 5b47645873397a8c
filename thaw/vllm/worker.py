"""What vLLM's workers are given: a method for `collective_rpc`, and notes of their start."""

from __future__ import annotations

from functools import wraps
from typing import Any

from .agent import VERBS, Agent, know
from .answers import Answer
from .weights.configuration import keep_configuration

_NOTING = "_thaw_notes_configurations"


def thaw(worker: Any, verb: str, *args: Any, **kwargs: Any) -> Answer:
    """Ask a worker's agent to do something; `VERBS` has what."""
    return VERBS[verb](Agent.of(worker), *args, **kwargs)


def add_method(worker_class: type) -> None:
    """Give a class of workers this method."""
    setattr(worker_class, thaw.__name__, thaw)


def keep_configurations(worker_class: type) -> None:
    """Have workers note their model's configuration when they start: building the model changes it.

    Whatever loads the weights then, the live engine can be frozen.
    """
    start = worker_class.__init__  # type: ignore[misc]
    if hasattr(start, _NOTING):
        return

    @wraps(start)
    def noting(worker: Any, *args: Any, **kwargs: Any) -> None:
        start(worker, *args, **kwargs)
        keep_configuration(worker.model_config)
        know(worker)

    setattr(noting, _NOTING, True)
    worker_class.__init__ = noting  # type: ignore[misc]
