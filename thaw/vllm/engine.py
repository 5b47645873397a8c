"""What thaw needs of a live engine, in one interface; `adapters` has it for those of vLLM."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from .answers import Answer

_Result = TypeVar("_Result")


def _no_call(*_: Any, **__: Any) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Door:
    """A method through which requests enter an engine.

    Attributes:
        owner: what has the method.
        name: of the method.
        is_inside: says of a call's arguments whether they are of a request that runs already.
    """

    owner: Any
    name: str
    is_inside: Callable[..., bool] = _no_call


class Engine(ABC):
    """A live engine, with all its ranks.

    What thaw does with an engine is written once, as coroutines over this interface. The methods of
    an engine that answers at once never wait, and `run` takes a coroutine over them to its end; for
    any other `run` returns what has to be awaited.
    """

    @abstractmethod
    def run(
        self, steps: Coroutine[Any, Any, _Result]
    ) -> _Result | Coroutine[Any, Any, _Result]: ...

    @abstractmethod
    def turn(self) -> AbstractAsyncContextManager[Any]:
        """Let what thaw does with this engine be done one after the other."""

    @abstractmethod
    async def wait(self, seconds: float) -> None: ...

    @property
    @abstractmethod
    def world_size(self) -> int:
        """How many ranks there are, each with a shard of its own."""

    @abstractmethod
    async def ask(self, verb: str, *args: Any) -> Sequence[Answer]:
        """Ask the agent of every rank to do something; see `agent.VERBS`."""

    @property
    @abstractmethod
    def doors(self) -> Sequence[Door]:
        """All ways in; with these shut, no request begins that `is_busy` does not know."""

    @abstractmethod
    def is_busy(self) -> bool:
        """Say whether requests that came in have not ended."""

    @abstractmethod
    def check_only_entrance(self) -> None:
        """Refuse where requests come in by other ways as well, which nothing here can shut.

        Raises:
            ThawError: they do.
        """

    @abstractmethod
    async def reset_prefix_cache(self) -> bool:
        """Forget which blocks were computed, and say whether that could be done."""

    @abstractmethod
    async def reset_encoder_cache(self) -> None:
        """Forget what encoders made of images and the like."""

    @property
    @abstractmethod
    def longest(self) -> int:
        """How many tokens prompt and answer may have together."""

    @abstractmethod
    async def tokenize(self, text: str) -> list[int]:
        """Make token ids of a prompt, as the engine does of those of requests."""

    @abstractmethod
    async def generate(
        self, prompt: Mapping[str, Any], asked: Mapping[str, Any], lora_request: Any
    ) -> Any:
        """Run a request for one token; return vLLM's `RequestOutput`.

        Args:
            asked: what the request asks of sessions (`kv.requests.Asked`).
        """

    @abstractmethod
    async def settle(self) -> None:
        """Have an engine that stands still between requests take note of transfers that ended."""
