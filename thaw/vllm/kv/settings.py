"""What `kv_connector_extra_config` may say of sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

_TYPES = {"max_bytes": int, "any_path": bool}
"""Of the settings that are no text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How an engine uses sessions.

    Attributes:
        sessions: the folder.
        max_bytes: how large it may become; what was not used for the longest goes first. 0: any.
        backend: what moves the bytes; see `thaw backends`.
        any_path: whether requests may name files outside of the folder; never for requests that
            come over a network.
    """

    sessions: str
    max_bytes: int = 0
    backend: str = "auto"
    any_path: bool = False

    @classmethod
    def parse(cls, extra: object) -> Self:
        """Take the settings from what the user gave.

        Raises:
            ValueError: a key is unknown or missing, or a value of the wrong type.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(extra, Mapping) or extra.get("sessions", "") == "":
            raise ValueError(
                "ThawConnector needs a folder for sessions: "
                'kv_connector_extra_config={"sessions": "./sessions"}'
            )
        if unknown := sorted(set(extra) - known):
            raise ValueError(
                f"ThawConnector does not know {', '.join(map(repr, unknown))} in "
                f"kv_connector_extra_config; it knows {', '.join(sorted(known))}"
            )
        for name, value in extra.items():
            kind: type[Any] = _TYPES.get(name, str)
            if type(value) is not kind:
                raise ValueError(
                    f"{name!r} in kv_connector_extra_config is {value!r}, expected a "
                    f"{kind.__name__}"
                )
        if (most := extra.get("max_bytes", 0)) < 0:
            raise ValueError(
                f"'max_bytes' in kv_connector_extra_config is {most}, expected 0 or more"
            )
        return cls(**extra)
