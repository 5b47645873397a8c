//! Reading and writing files: through the page cache where the bytes are in it, else around it.

use std::ffi::c_void;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;

use crate::error::{Error, Result};
use crate::io::cursor::Cursor;
use crate::io::moved::Moved;
use crate::io::reopen::reopen;
use crate::io::residency::{Probe, lives_in_memory};
use crate::io::ring;
use crate::job::plan::Part;
use crate::memory::{PAGE_NBYTES, align_down, align_up};

/// How bytes go between a file and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// Look for each piece.
    Auto,
    Buffered,
    Direct,
}

/// A file that the caller holds open, and a second descriptor of it for direct I/O.
///
/// Offsets are counted from `base` on, a multiple of a page, where the file is one of several that
/// are read together.
pub struct File {
    fd: RawFd,
    base: u64,
    io: Io,
    direct: OnceLock<Option<OwnedFd>>,
    probe: Option<Probe>,
    pub moved: Moved,
}

impl File {
    pub fn to_read(fd: RawFd, base: u64, nbytes: u64, io: Io) -> File {
        let io = match io {
            Io::Auto if lives_in_memory(fd) => Io::Buffered,
            chosen => chosen,
        };
        let probe = if io == Io::Auto {
            Probe::new(fd, nbytes)
        } else {
            None
        };
        File::new(fd, base, io, probe)
    }

    pub fn to_write(fd: RawFd, io: Io) -> File {
        let io = match io {
            Io::Auto if lives_in_memory(fd) => Io::Buffered,
            Io::Auto => Io::Direct,
            chosen => chosen,
        };
        File::new(fd, 0, io, None)
    }

    fn new(fd: RawFd, base: u64, io: Io, probe: Option<Probe>) -> File {
        File {
            fd,
            base,
            io,
            direct: OnceLock::new(),
            probe,
            moved: Moved::default(),
        }
    }

    pub fn base(&self) -> u64 {
        self.base
    }

    /// Whether a range is to be read around the page cache.
    pub fn is_cold(&self, start: u64, end: u64) -> bool {
        match self.io {
            Io::Buffered => false,
            Io::Direct => self.direct_fd().is_some(),
            Io::Auto => {
                let (start, end) = (start - self.base, end - self.base);
                let cold = self
                    .probe
                    .as_ref()
                    .is_some_and(|probe| probe.is_cold(start, end));
                cold && self.direct_fd().is_some()
            }
        }
    }

    /// Reads a range to `to`, around the page cache if it is cold.
    ///
    /// # Safety
    /// `to` must have the offset within a page that `start` has, and there must be room for the
    /// range and for what else is in its pages.
    pub unsafe fn read(&self, to: u64, start: u64, end: u64, cold: bool) -> Result<()> {
        // SAFETY: the caller vouches for the room.
        unsafe {
            if cold {
                self.read_direct(align_down(to), start, end)
            } else {
                self.read_buffered(to, start, end - start)
            }
        }
    }

    /// Reads a range around the page cache, so that its first byte lies at `to` plus its offset
    /// within a page.
    ///
    /// # Safety
    /// `to` must be aligned to a page, with room for the range and two pages.
    pub unsafe fn read_direct(&self, to: u64, start: u64, end: u64) -> Result<()> {
        let Some(direct) = self.direct_fd() else {
            unreachable!("a cold range is only found where direct I/O works");
        };
        let (from, until) = (align_down(start), align_up(end));
        let mut at = from;
        loop {
            // SAFETY: the caller vouches for the room.
            let read = unsafe { self.read_around(direct, to + at - from, at, until - at) };
            let refused = match &read {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => error.raw_os_error() == Some(libc::EINVAL),
                Ok(done) => *done == 0,
            };
            match read {
                Err(error) if !refused => {
                    let (call, offset, nbytes) = ("reading", at, end - at);
                    return Err(Error::Io {
                        call,
                        error,
                        offset,
                        nbytes,
                    });
                }
                read => at += read.unwrap_or(0),
            }
            if at >= end {
                return Ok(());
            }
            // The end of the file, or an alignment that the file system refuses.
            if refused || at % PAGE_NBYTES != 0 {
                let (at, done_before) = (at.max(start), at.max(start) - from);
                // SAFETY: as above.
                return unsafe { self.read_buffered(to + done_before, at, end - at) };
            }
        }
    }

    /// Reads whole pages around the page cache, through io_uring where there is one.
    ///
    /// # Safety
    /// There must be room for `nbytes` at `to`.
    unsafe fn read_around(
        &self,
        direct: RawFd,
        to: u64,
        start: u64,
        nbytes: u64,
    ) -> std::io::Result<u64> {
        let start = start - self.base;
        // SAFETY: the caller vouches for the room.
        if let Some(read) = unsafe { ring::read(direct, to, start, nbytes) } {
            let done = read?;
            self.moved.ring.fetch_add(done, Relaxed);
            return Ok(done);
        }
        // SAFETY: as above.
        let done = unsafe { libc::pread(direct, to as *mut c_void, nbytes as usize, start as i64) };
        if done < 0 {
            return Err(std::io::Error::last_os_error());
        }
        self.moved.direct.fetch_add(done as u64, Relaxed);
        Ok(done as u64)
    }

    unsafe fn read_buffered(&self, to: u64, start: u64, nbytes: u64) -> Result<()> {
        let part = Part {
            start,
            nbytes,
            address: Some(to),
        };
        // SAFETY: the caller vouches for the room.
        unsafe { self.read_parts(&[part]) }
    }

    /// Reads adjoining parts into their memory; each must have some.
    ///
    /// # Safety
    /// The memory of the parts must be valid.
    pub unsafe fn read_parts(&self, parts: &[Part]) -> Result<()> {
        let mut cursor = Cursor::new(parts);
        while let Some((at, vectors)) = cursor.next() {
            let count = vectors.len() as i32;
            let place = (at - self.base) as i64;
            // SAFETY: the caller vouches for the memory.
            let done = unsafe { libc::preadv(self.fd, vectors.as_ptr(), count, place) };
            match done {
                0 => return Err(Error::Truncated { offset: at }),
                1.. => {
                    self.moved.buffered.fetch_add(done as u64, Relaxed);
                    cursor.advance(done as u64);
                }
                _ if interrupted() => {}
                _ => return Err(Error::io("reading", at, cursor.left())),
            }
        }
        Ok(())
    }

    /// Whether direct I/O is used for what is written in whole pages.
    pub fn writes_around(&self) -> bool {
        self.io == Io::Direct && self.direct_fd().is_some()
    }

    /// Writes a range; `from` must be aligned to a page for direct I/O to be used.
    ///
    /// # Safety
    /// The memory must be valid.
    pub unsafe fn write(&self, from: u64, start: u64, nbytes: u64) -> Result<()> {
        let whole_pages = (from | start | nbytes).is_multiple_of(PAGE_NBYTES);
        if self.io == Io::Direct
            && whole_pages
            && let Some(direct) = self.direct_fd()
        {
            // SAFETY: the caller vouches for the memory.
            return unsafe { self.write_direct(direct, from, start, nbytes) };
        }
        // SAFETY: as above.
        unsafe { self.write_buffered(from, start, nbytes)? };
        self.start_writeback(start, nbytes);
        Ok(())
    }

    unsafe fn write_direct(&self, fd: RawFd, from: u64, start: u64, nbytes: u64) -> Result<()> {
        let mut done = 0;
        while done < nbytes {
            let (place, left) = ((from + done) as *const c_void, (nbytes - done) as usize);
            // SAFETY: the caller vouches for the memory.
            let wrote = unsafe { libc::pwrite(fd, place, left, (start + done) as i64) };
            if wrote < 0 {
                if interrupted() {
                    continue;
                }
                if last_errno() != libc::EINVAL {
                    return Err(Error::io("writing", start + done, nbytes - done));
                }
            }
            let wrote = wrote.max(0) as u64;
            done += wrote;
            self.moved.direct.fetch_add(wrote, Relaxed);
            // An alignment that the file system refuses, or a limit within a page.
            if wrote == 0 || done % PAGE_NBYTES != 0 {
                // SAFETY: as above.
                return unsafe { self.write_buffered(from + done, start + done, nbytes - done) };
            }
        }
        Ok(())
    }

    /// Writes a range through the page cache.
    ///
    /// # Safety
    /// The memory must be valid.
    pub unsafe fn write_buffered(&self, from: u64, start: u64, nbytes: u64) -> Result<()> {
        let mut done = 0;
        while done < nbytes {
            let (place, left) = ((from + done) as *const c_void, (nbytes - done) as usize);
            // SAFETY: the caller vouches for the memory.
            let wrote = unsafe { libc::pwrite(self.fd, place, left, (start + done) as i64) };
            if wrote > 0 {
                self.moved.buffered.fetch_add(wrote as u64, Relaxed);
                done += wrote as u64;
            } else if wrote == 0 {
                let error = std::io::Error::from_raw_os_error(libc::EIO);
                let (call, offset, nbytes) = ("writing", start + done, nbytes - done);
                return Err(Error::Io {
                    call,
                    error,
                    offset,
                    nbytes,
                });
            } else if !interrupted() {
                return Err(Error::io("writing", start + done, nbytes - done));
            }
        }
        Ok(())
    }

    /// Has the device begin to take in what was written: the sync before sealing then waits for
    /// little. A hint: an error shows up there.
    pub fn start_writeback(&self, start: u64, nbytes: u64) {
        let flags = libc::SYNC_FILE_RANGE_WRITE;
        // SAFETY: no memory is involved.
        unsafe { libc::sync_file_range(self.fd, start as i64, nbytes as i64, flags) };
    }

    /// Asks for room, so that direct writes need not extend the file one after another.
    pub fn reserve(&self, start: u64, nbytes: u64) {
        if self.io == Io::Direct && nbytes > 0 {
            // SAFETY: no memory is involved. A file system that cannot do it loses only speed.
            unsafe { libc::fallocate(self.fd, 0, start as i64, nbytes as i64) };
        }
    }

    /// The descriptor for direct I/O, opened when first asked for; `None` where it is refused.
    fn direct_fd(&self) -> Option<RawFd> {
        let opened = self.direct.get_or_init(|| {
            // SAFETY: asks for the flags of an open descriptor.
            let mode = unsafe { libc::fcntl(self.fd, libc::F_GETFL) } & libc::O_ACCMODE;
            reopen(self.fd, mode | libc::O_DIRECT)
        });
        opened.as_ref().map(AsRawFd::as_raw_fd)
    }
}

fn last_errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn interrupted() -> bool {
    last_errno() == libc::EINTR
}
