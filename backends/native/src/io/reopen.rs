//! A second descriptor of an open file.

use std::ffi::CString;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Opens the file of a descriptor once more: by that, since another file may carry the name by now.
pub fn reopen(fd: RawFd, flags: i32) -> Option<OwnedFd> {
    let name = CString::new(format!("/proc/self/fd/{fd}")).expect("no zero byte");
    // SAFETY: the name ends in a zero byte.
    let fd = unsafe { libc::open(name.as_ptr(), flags | libc::O_CLOEXEC) };
    // SAFETY: a new descriptor that nobody else owns.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}
