"""What workers answer: plain values, errors too, which travel between processes by any means."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias, TypeVar

from thaw_format import ThawError

Answer: TypeAlias = dict[str, Any]
ANSWERED = (ThawError, OSError, TypeError, ValueError)
"""Errors that are an answer; others end the worker."""
REPORT = "thaw_report"
"""The attribute of a model that says how it was frozen while it was loaded, or why it was not."""
_Asked = TypeVar("_Asked", bound=Any)


def answering(method: Callable[..., Answer]) -> Callable[..., Answer]:
    """Have a method of what has a `rank` say which one answers, and what went wrong."""

    @wraps(method)
    def answer(asked: _Asked, *args: Any, **kwargs: Any) -> Answer:
        try:
            return method(asked, *args, **kwargs) | {"rank": asked.rank}
        except ANSWERED as error:
            return {"rank": asked.rank, "error": type(error).__name__, "message": str(error)}

    return answer
