//! Direct reads through io_uring, many at once, where the kernel and the container allow it.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, opcode, types};
use rustix::io::{Errno, Result};

/// What one read of the queue takes; a piece becomes several, which the device serves at once.
const READ_NBYTES: u64 = 512 << 10;
const ENTRIES: u32 = 64;

enum State {
    Untried,
    Refused,
    Ready(Box<IoUring>),
}

thread_local! {
    /// A ring for each worker: nobody waits for another's completions.
    static RING: RefCell<State> = const { RefCell::new(State::Untried) };
}

/// Reads bytes from the start of a range on; returns how many, or `None` where there is no ring.
///
/// # Safety
/// There must be room for `nbytes` at `to`.
pub unsafe fn read(fd: BorrowedFd<'_>, to: u64, start: u64, nbytes: u64) -> Option<Result<u64>> {
    RING.with_borrow_mut(|state| {
        if matches!(state, State::Untried) {
            *state = IoUring::new(ENTRIES).map_or(State::Refused, |ring| State::Ready(ring.into()));
        }
        let State::Ready(ring) = state else {
            return None;
        };
        // SAFETY: the caller vouches for the room.
        match unsafe { read_all(ring, fd, to, start, nbytes) } {
            Some(done) => Some(done),
            None => {
                *state = State::Refused;
                None
            }
        }
    })
}

/// # Safety
/// As `read`.
unsafe fn read_all(
    ring: &mut IoUring,
    fd: BorrowedFd<'_>,
    to: u64,
    start: u64,
    nbytes: u64,
) -> Option<Result<u64>> {
    let count = nbytes.div_ceil(READ_NBYTES).min(u64::from(ENTRIES));
    for index in 0..count {
        let at = index * READ_NBYTES;
        let length = READ_NBYTES.min(nbytes - at) as u32;
        let entry = opcode::Read::new(types::Fd(fd.as_raw_fd()), (to + at) as *mut u8, length)
            .offset(start + at)
            .build()
            .user_data(index);
        // SAFETY: the caller vouches for the room, and every completion is waited for below.
        unsafe { ring.submission().push(&entry) }.ok()?;
    }
    let mut results = vec![None; count as usize];
    let mut left = count as usize;
    while left > 0 {
        match ring.submit_and_wait(left) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What the kernel took it will finish; what it did not is left to other means.
            Err(_) if ring.submission().len() == left => return None,
            Err(_) => {}
        }
        for completion in ring.completion() {
            results[completion.user_data() as usize] = Some(completion.result());
            left -= 1;
        }
    }
    Some(joined(&results, nbytes))
}

/// How many bytes arrived without a hole; the error, if the first read failed.
fn joined(results: &[Option<i32>], nbytes: u64) -> Result<u64> {
    let mut done = 0;
    for result in results.iter().flatten() {
        if *result < 0 && done == 0 {
            return Err(Errno::from_raw_os_error(-result));
        }
        let wanted = READ_NBYTES.min(nbytes - done);
        done += (*result).max(0) as u64;
        if (*result).max(0) as u64 != wanted {
            break;
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_arrived_without_a_hole() {
        let (whole, size) = (READ_NBYTES as i32, 3 * READ_NBYTES);
        let count = |results: &[i32]| {
            let results: Vec<_> = results.iter().copied().map(Some).collect();
            joined(&results, size).map_err(|error| error.raw_os_error())
        };
        assert_eq!(count(&[whole, whole, whole]), Ok(size));
        assert_eq!(count(&[whole, 100, whole]), Ok(READ_NBYTES + 100));
        assert_eq!(count(&[whole, -5, whole]), Ok(READ_NBYTES));
        assert_eq!(count(&[-5, whole, whole]), Err(5));
        assert_eq!(count(&[0, whole, whole]), Ok(0));
    }
}
