"""What becomes of a name that is given to something new: its place, its mode, its rename."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ACL = "system.posix_acl_access"
_MAX_LINKS = 40
_NOTHING = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_REASONS = {
    errno.EBUSY: "is mounted by itself, like a file bound into a container",
    errno.EXDEV: "lies on a mount that does not rename there",
    errno.EINVAL: "lies on a file system that does not rename",
    errno.ENOSYS: "lies on a file system that does not rename",
    errno.EOPNOTSUPP: "lies on a file system that does not rename",
}


def place_of(path: str | os.PathLike[str]) -> Path:
    """Find the folder and name that a path means; a link of that name is not followed.

    Raises:
        OSError: the path is a link to an open file, such as /dev/stdout, and no name.
    """
    final = _folded(Path(path))
    hop = final
    for _ in range(_MAX_LINKS):
        if hop.is_relative_to("/proc"):
            message = "is a link to an open file, not a name that a file could get"
            raise OSError(errno.EINVAL, message, os.fspath(path))
        if not hop.is_symlink():
            break
        hop = _folded(hop.parent / os.readlink(hop))
    return final


def status_of(path: Path) -> os.stat_result | None:
    """Look once at what has a name, which may go at any time; None if nothing has it."""
    try:
        return os.stat(path)
    except OSError as error:
        if error.errno not in _NOTHING:
            raise
        return None


def take_access(fd: int, final: Path) -> None:
    """Give a new file the owner, mode and access list of the one that it will replace, if any.

    Where the group or the list cannot be had, the group gets no more than others have: nobody
    reads the new file who could not read the old one.
    """
    if (old := status_of(final)) is None:
        return
    for owner in ((old.st_uid, -1), (-1, old.st_gid)):
        with suppress(OSError):
            os.fchown(fd, *owner)
    mode = stat.S_IMODE(old.st_mode) & 0o777
    if not _has_same_list(fd, final) or os.fstat(fd).st_gid != old.st_gid:
        mode &= ~0o070 | (mode & 0o007) << 3
    # File systems without modes refuse to change them.
    if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
        os.fchmod(fd, mode)


def _has_same_list(fd: int, final: Path) -> bool:
    """Copy the access list of a file, if it has one, and say whether the two have the same then."""
    try:
        access = os.getxattr(final, _ACL)
    except OSError:
        return True
    try:
        os.setxattr(fd, _ACL, access)
    except OSError:
        return False
    return True


@contextmanager
def naming_renames(final: Path) -> Iterator[None]:
    """Say what it means if a rename in the block is refused."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        raise OSError(
            error.errno,
            f"{_REASONS[error.errno]} ({os.strerror(error.errno)}), and what is frozen gets its "
            "name only when it is whole; write to another place and copy it from there",
            os.fspath(final),
        ) from error


def _folded(path: Path) -> Path:
    """Resolve all of a path but its last name."""
    return Path(os.path.realpath(path.parent), path.name)
