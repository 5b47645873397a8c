//! A second descriptor of an open file.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};

/// A name of the file of a descriptor; that by which it was opened may be another's by now.
pub fn name_of(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Opens the file of a descriptor once more.
pub fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> Option<OwnedFd> {
    open(name_of(fd), flags | OFlags::CLOEXEC, Mode::empty()).ok()
}
