"""What a model's configuration says before the model is built, compared key by key.

vLLM changes a configuration while it builds the model, and transformers adds the defaults of its
own release. So it is taken before, and what the model's `config.json` says is told from the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaw_format import JSON

from ...errors import MismatchError

if TYPE_CHECKING:
    from vllm.config import ModelConfig

_FILE = "config.json"
_KEPT_AT = "_thaw_configuration"
"""The attribute of vLLM's configuration of a model that has what was taken of it."""
_PASSING = frozenset({"_name_or_path", "name_or_path", "transformers_version"})
"""Keys that say where a configuration came from, not what it is."""
_DTYPE = frozenset({"dtype", "torch_dtype"})
"""Keys that are set while a model is built: what it runs in has a field of its own."""
_ROPE = "rope_parameters"
"""Where transformers puts what configurations say of rotary embeddings, in whatever form."""
_ROPE_BEFORE = frozenset({"rope_scaling", _ROPE})
_THETA = "rope_theta"
_ROPE_NAMES = {
    "rope_local_base_freq": _THETA,
    "local_rope_theta": _THETA,
    "global_rope_theta": _THETA,
    "rotary_emb_base": _THETA,
    "rotary_pct": "partial_rotary_factor",
    "rotary_emb_fraction": "partial_rotary_factor",
}
"""Older names of what is in there."""
_FOREIGN = frozenset({"quantization_config", "compression_config"})
"""What is inside of a configuration and is none: there a dtype means something else."""
TIED = "tie_word_embeddings"
UNTIED = "word_embeddings_untied_by_checkpoint"
"""What vLLM notes of a model whose checkpoint has what its configuration says that it has not."""
_LARGEST = 2**53
_LONGEST = 60
_ABSENT = "not there"


@dataclass(frozen=True, slots=True)
class Configuration:
    """A model's configuration; keys are joined by dots where one is inside of another.

    Attributes:
        stated: what `config.json` or `hf_overrides` say, as it is read.
        defaults: what they leave to transformers and vLLM.
    """

    stated: Mapping[str, JSON]
    defaults: Mapping[str, JSON]

    def record(self) -> dict[str, JSON]:
        """Say it in a snapshot's metadata."""
        return {"stated": dict(self.stated), "defaults": dict(self.defaults)}


def keep_configuration(model_config: ModelConfig) -> None:
    """Take a model's configuration now, before the model is built; what fails is said later."""
    found: Configuration | Exception
    try:
        found = take_configuration(model_config)
    except (AttributeError, OSError, TypeError, ValueError) as error:
        # Of an engine that may never ask for it.
        found = error
    setattr(model_config, _KEPT_AT, found)


def configuration_of(model_config: ModelConfig) -> Configuration:
    """Return what was taken of a model's configuration before the model was built.

    Raises:
        MismatchError: it could not be taken.
    """
    if not hasattr(model_config, _KEPT_AT):
        keep_configuration(model_config)
    found = getattr(model_config, _KEPT_AT)
    if isinstance(found, Exception):
        raise MismatchError(f"the model's configuration cannot be read: {found}") from found
    assert isinstance(found, Configuration)
    return found


def take_configuration(model_config: ModelConfig) -> Configuration:
    """Read what a model's configuration says, in its file and as vLLM has it."""
    config: Any = model_config.hf_config
    read = flatten(config.to_dict())
    file = _read_file(model_config)
    said = flatten(file or {})
    if getattr(model_config, UNTIED, False):
        # vLLM looked into the checkpoint, which a folder without one has not.
        read |= {key: said.get(key, True) for key in read if key.rpartition(".")[2] == TIED}
    overrides = model_config.hf_overrides
    if file is None or not isinstance(overrides, Mapping):
        return Configuration(read, {})
    return tell_apart(read, said | flatten(overrides), getattr(config, "attribute_map", {}))


def tell_apart(
    read: Mapping[str, JSON], said: Mapping[str, JSON], aliases: Mapping[str, str]
) -> Configuration:
    """Tell what a file says of a configuration from what was added when it was read.

    Args:
        read: the configuration, flat.
        said: the file, flat.
        aliases: other names of keys.
    """
    stated: dict[str, JSON] = {}
    for key, value in said.items():
        found = _places(key, read, aliases)
        stated |= {each: read[each] for each in found} if found else {key: value}
    return Configuration(stated, {key: read[key] for key in read if key not in stated})


def compare_configurations(recorded: Any, here: Configuration) -> list[tuple[str, str, str]]:
    """List the keys that differ, with the values of a snapshot and of here.

    A default counts only where the other side states the key: releases of transformers differ in
    theirs. Of rotary embeddings all that both know counts, since tables are made of it.
    """
    theirs = {**recorded["defaults"], **recorded["stated"]}
    ours = {**here.defaults, **here.stated}
    both = {key for key in theirs.keys() & ours.keys() if _ROPE in key.split(".")}
    keys = both | recorded["stated"].keys() | here.stated.keys()
    return [
        _difference(key, theirs.get(key), ours.get(key))
        for key in sorted(keys)
        if theirs.get(key) != ours.get(key)
    ]


def is_recorded(recorded: Any) -> bool:
    """Say whether a snapshot has a configuration as it is recorded here."""
    return isinstance(recorded, Mapping) and all(
        isinstance(recorded.get(name), Mapping) for name in ("stated", "defaults")
    )


def flatten(config: Mapping[str, Any]) -> dict[str, JSON]:
    """Join the keys of a configuration and of those inside of it; leave out what does not count."""
    return dict(_flat(config, "", is_config=True))


def _flat(config: Mapping[str, Any], prefix: str, *, is_config: bool) -> Iterator[tuple[str, JSON]]:
    passed = _PASSING | _DTYPE if is_config else frozenset[str]()
    for key, value in config.items():
        if key in passed:
            continue
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            has_type = "model_type" in value or str(key).endswith("_config")
            inner = is_config and has_type and key not in _FOREIGN
            yield from _flat(value, f"{name}.", is_config=inner)
        else:
            yield name, _plain(value)


def _plain(value: Any) -> JSON:
    """Say a value without floats, which a manifest has no place for."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and abs(value) >= _LARGEST:
        return str(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _places(key: str, read: Mapping[str, JSON], aliases: Mapping[str, str]) -> list[str]:
    """Find where a key of the file went when the configuration was read."""
    parts = key.split(".")
    last = _ROPE_NAMES.get(parts[-1], parts[-1])
    names = [key, aliases.get(key, key), f"text_config.{key}"]
    if found := [name for name in names if name in read]:
        return found[:1]
    above = next((index for index, part in enumerate(parts) if part in _ROPE_BEFORE), None)
    base = ".".join(parts[: len(parts) - 1 if above is None else above])
    starts = [f"{base}.{_ROPE}." if base else f"{_ROPE}.", f"text_config.{_ROPE}."]
    return [
        name for name in read if name.startswith(tuple(starts)) and name.rpartition(".")[2] == last
    ]


def _difference(key: str, theirs: JSON, ours: JSON) -> tuple[str, str, str]:
    """Name what differs, down to the item of a list."""
    if isinstance(theirs, list) and isinstance(ours, list):
        if len(theirs) != len(ours):
            return f"{key} has", f"{len(theirs)} entries", str(len(ours))
        pairs = enumerate(zip(theirs, ours, strict=True))
        index, (theirs, ours) = next(each for each in pairs if each[1][0] != each[1][1])
        return _difference(f"{key}[{index}]", theirs, ours)
    if isinstance(theirs, dict) and isinstance(ours, dict):
        names = sorted(theirs.keys() | ours.keys())
        name = next(each for each in names if theirs.get(each) != ours.get(each))
        return _difference(f"{key}.{name}", theirs.get(name), ours.get(name))
    return f"{key} is", _said(theirs), _said(ours)


def _said(value: JSON) -> str:
    if value is None:
        return _ABSENT
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _read_file(model_config: ModelConfig) -> dict[str, Any] | None:
    """Read a model's `config.json`, if it has one that is here."""
    place = str(getattr(model_config, "hf_config_path", None) or model_config.model)
    folder = Path(place)
    path = folder / _FILE if folder.is_dir() else _cached(place, model_config.revision)
    if path is None or not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else None


def _cached(name: str, revision: str | None) -> Path | None:
    """Find the file of a model that is known by its name; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, _FILE, revision=revision)
    except HFValidationError:
        # A file, like one of GGUF, or an address.
        return None
    return Path(found) if isinstance(found, str) else None
