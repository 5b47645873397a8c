"""The error codes of the sessions profile (spec/sessions-1.0.md): the rule and family of each."""

from __future__ import annotations

from thaw_format import FormatError, LayoutError, ManifestError, VersionError

_FAMILIES: dict[type[FormatError], dict[str, str]] = {
    VersionError: {"session-version": "KV-2"},
    ManifestError: {
        "session-missing": "KV-1",
        "session-missing-member": "KV-5",
        "session-member-type": "KV-6",
        "session-base64": "KV-7",
        "session-digits": "KV-8",
        "session-tokens": "KV-9",
        "session-block-tokens": "KV-10",
        "session-hashes": "KV-11",
        "session-group": "KV-12",
        "session-blocks": "KV-13",
        "session-window": "KV-14",
        "session-layers": "KV-15",
        "session-layer": "KV-16",
        "session-media": "KV-17",
        "session-ranks": "KV-22",
    },
    LayoutError: {
        "session-tensors": "KV-18",
        "session-tensor-shape": "KV-19",
        "session-tensor-stride": "KV-20",
        "session-storage": "KV-21",
    },
}

SESSION_RULES: dict[str, str] = {
    code: rule for codes in _FAMILIES.values() for code, rule in codes.items()
}
_CLASSES = {code: family for family, codes in _FAMILIES.items() for code in codes}


def session_error(code: str, message: str) -> FormatError:
    """Build the error of a code, with its family and rule."""
    return _CLASSES[code](message, code=code, rule=SESSION_RULES[code])
