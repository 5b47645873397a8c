"""Compare two .safetensors checkpoints byte for byte, with the safetensors library alone.

compare_checkpoints.py A B    exits 0 if they are bit-identical, 1 if not, 2 if it cannot tell
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import safetensors

USAGE = 2


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as a file holds it."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)} sha256:{hashlib.sha256(self.data).hexdigest()}"


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: compare_checkpoints.py A B", file=sys.stderr)
        return USAGE
    before, after = (read(Path(each)) for each in arguments)
    if not before:
        print(f"error: {arguments[0]} holds no tensors", file=sys.stderr)
        return USAGE
    differences = compare(before, after)
    for line in differences:
        print(line)
    for path, tensors in zip(arguments, (before, after), strict=True):
        print(f"SHA-256 {sha256(tensors)}  {path}")
    if differences:
        print(f"differences: {len(differences)}")
        return 1
    nbytes = sum(len(tensor.data) for tensor in before.values())
    print(f"{len(before)} tensors, {nbytes} bytes: bit-identical")
    return 0


def read(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file, or of all files of a folder."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        for name, each in safetensors.deserialize(file.read_bytes()):
            tensors[name] = Tensor(each["dtype"], tuple(each["shape"]), bytes(each["data"]))
    return tensors


def compare(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    """Return one line for each tensor that is missing, unexpected or other than it was."""
    return [
        f"{name}: {before.get(name, 'missing')} -> {after.get(name, 'missing')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def sha256(tensors: dict[str, Tensor]) -> str:
    """Return the digest of all names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tensor.shape}\0{len(tensor.data)}\0".encode())
        digest.update(tensor.data)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
