"""One `.safetensors` file, written by the safetensors library."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping

import torch
from safetensors import SafetensorError, TensorSpec, serialize_file
from thaw_format import FileTarget

from .dense import dense_words


def write_shard_file(
    target: FileTarget, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None
) -> None:
    """Write tensors to a file that is being made, under the name that it will get.

    Raises:
        OSError: the library cannot write the file.
    """
    words = {name: dense_words(tensor) for name, tensor in tensors.items()}
    # Not even an empty slice may begin at address zero.
    nothing = torch.empty(1, dtype=torch.uint8, device="cpu")
    specs = {
        name: TensorSpec(
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=list(tensor.shape),
            data_ptr=words[name].data_ptr() or nothing.data_ptr(),
            data_len=words[name].nbytes,
        )
        for name, tensor in tensors.items()
    }
    # The library replaces a file by name: here the partial one, which gets the final name.
    partial = os.readlink(f"/proc/self/fd/{target.fileno()}")
    try:
        serialize_file(specs, partial, metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error), os.fspath(target.path)) from error
    _settle(partial, target)


def _settle(partial: str, target: FileTarget) -> None:
    """Give the file that the library made the mode of a new file, and bring it to the device."""
    fd = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchmod(fd, stat.S_IMODE(os.fstat(target.fileno()).st_mode))
        os.fsync(fd)
    finally:
        os.close(fd)
