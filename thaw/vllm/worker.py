"""What vLLM's workers are given: a method for `collective_rpc`, and notes of their start."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from .agent import VERBS, Agent, know
from .answers import Answer
from .weights.configuration import keep_configuration

_NOTING = "_thaw_notes_configurations"
_MOVING, _CHANGING = ("sleep", "wake_up"), ("reload_weights", "update_weights")
"""Methods of vLLM's workers that let go of weights or take them back, and that change them."""


def thaw(worker: Any, verb: str, *args: Any, **kwargs: Any) -> Answer:
    """Ask a worker's agent to do something; `VERBS` has what."""
    return VERBS[verb](Agent.of(worker), *args, **kwargs)


def add_method(worker_class: type) -> None:
    """Give a class of workers this method."""
    setattr(worker_class, thaw.__name__, thaw)


def _watch_weights(worker: Any) -> None:
    """Have a worker's agent know when vLLM itself moves or changes the weights."""
    for names, note in ((_MOVING, Agent.weights_leave), (_CHANGING, Agent.weights_change)):
        for name in names:
            if hasattr(worker, name):
                setattr(worker, name, _noting_before(worker, name, note))


def _noting_before(worker: Any, name: str, note: Callable[[Agent], None]) -> Callable[..., Any]:
    method = getattr(worker, name)

    @wraps(method)
    def noting(*args: Any, **kwargs: Any) -> Any:
        agent = Agent.of(worker)
        agent.fence()
        note(agent)
        return method(*args, **kwargs)

    return noting


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
        _watch_weights(worker)

    setattr(noting, _NOTING, True)
    worker_class.__init__ = noting  # type: ignore[misc]
