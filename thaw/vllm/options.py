"""What `model_loader_extra_config` may say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

_Options = TypeVar("_Options")
_TYPES = {"verify": bool, "allow_unverified": bool, "extra_config": Mapping}
"""Of the options that are no text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How `load_format="thaw"` loads.

    Attributes:
        snapshot: a `.thaw` file, or the folder of a snapshot with several ranks.
        backend: what moves the bytes; see `thaw backends`.
        verify: whether every tensor is compared with the snapshot once more, when it is loaded.
        allow_unverified: whether a processed snapshot may be of kernels that were never compared.
        errors_to: a folder where workers leave word of what ended them; `thaw_vllm.load` sets it.
    """

    snapshot: str
    backend: str = "auto"
    verify: bool = False
    allow_unverified: bool = False
    errors_to: str = ""

    @classmethod
    def parse(cls, extra: object) -> Self:
        """Take the options from what the user gave.

        Raises:
            ValueError: a key is unknown or missing, or a value of the wrong type.
        """
        return _parse(cls, "thaw", extra)


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeOptions:
    """How the loader that freezes what it has loaded goes about it; `thaw_vllm.freeze` sets them.

    Attributes:
        freeze_to: where the snapshot goes.
        snapshot_id: the same on every rank.
        load_format: how the weights are loaded that are frozen.
        extra_config: of that loader.
        errors_to: a folder where workers leave word of what ended them.
    """

    freeze_to: str
    snapshot_id: str
    backend: str = "auto"
    load_format: str = "auto"
    extra_config: Mapping[str, Any] | None = None
    errors_to: str = ""

    @classmethod
    def parse(cls, extra: object) -> Self:
        return _parse(cls, "thaw-freeze", extra)


def _parse(cls: type[_Options], load_format: str, extra: object) -> _Options:
    known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    if not isinstance(extra, Mapping):
        raise ValueError(f"load_format={load_format!r} wants a mapping as extra config")
    if unknown := sorted(set(extra) - known):
        raise ValueError(
            f"load_format={load_format!r} does not know {', '.join(map(repr, unknown))} in "
            f"model_loader_extra_config; it knows {', '.join(sorted(known))}"
        )
    if cls is LoadOptions and "snapshot" not in extra:
        raise ValueError(
            f"load_format={load_format!r} needs a snapshot: "
            'model_loader_extra_config={"snapshot": "model.thaw"}'
        )
    for name, value in extra.items():
        kind = _TYPES.get(name, str)
        if not isinstance(value, kind):
            raise ValueError(
                f"{name!r} in model_loader_extra_config is {value!r}, expected a {kind.__name__}"
            )
    return cls(**extra)
