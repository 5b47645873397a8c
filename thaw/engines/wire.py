"""Messages over a Unix socket: a line of JSON behind its length, with open files beside it."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Message: TypeAlias = Mapping[str, Any]
_LENGTH = struct.Struct("<I")
_MOST_NBYTES = 16 << 20
_MOST_FILES = 8
_PEER = struct.Struct("3i")


def send(connection: socket.socket, message: Message, files: Sequence[int] = ()) -> None:
    """Send a message, and descriptors of open files.

    Raises:
        OSError: the other side has gone.
    """
    data = json.dumps(message).encode()
    head = _LENGTH.pack(len(data))
    if files:
        socket.send_fds(connection, [head], list(files))
    else:
        connection.sendall(head)
    connection.sendall(data)


def receive(connection: socket.socket) -> tuple[Message, list[int]] | None:
    """Take a message, and the descriptors that came with it; None if the other side has gone.

    Raises:
        ValueError: it is no message.
        OSError: reading failed, or took too long.
    """
    head, files, _, _ = socket.recv_fds(connection, _LENGTH.size, _MOST_FILES)
    try:
        head += _exactly(connection, _LENGTH.size - len(head)) if head else b""
        if len(head) < _LENGTH.size:
            raise EOFError
        (nbytes,) = _LENGTH.unpack(head)
        if nbytes > _MOST_NBYTES:
            raise ValueError(f"a message of {nbytes} bytes, more than {_MOST_NBYTES}")
        data = _exactly(connection, nbytes)
        if len(data) < nbytes:
            raise EOFError
        message = json.loads(data)
        if not isinstance(message, dict):
            raise ValueError("a message is an object")
    except EOFError:
        _close(files)
        return None
    except (ValueError, OSError):
        _close(files)
        raise
    return message, files


def peer(connection: socket.socket) -> tuple[int, int]:
    """Say which process, of which user, is on the other side: pid and uid, by the kernel."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, uid, _ = _PEER.unpack(found)
    return pid, uid


def _exactly(connection: socket.socket, nbytes: int) -> bytes:
    parts = bytearray()
    while len(parts) < nbytes and (part := connection.recv(nbytes - len(parts))):
        parts += part
    return bytes(parts)


def _close(files: Sequence[int]) -> None:
    for each in files:
        os.close(each)
