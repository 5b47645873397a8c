//! Reading and writing files: through the page cache where the bytes are in it, else around it.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;

use rustix::fs::{FallocateFlags, OFlags, fallocate, fcntl_getfl};
use rustix::io::{Errno, pread, preadv, pwrite};

use crate::error::{Error, Result};
use crate::io::moved::Moved;
use crate::io::reopen::reopen;
use crate::io::residency::{Probe, lives_in_memory};
use crate::io::ring;
use crate::job::plan::Part;
use crate::memory::{PAGE_NBYTES, align_down, align_up, bytes, bytes_mut};

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
pub struct File<'a> {
    fd: BorrowedFd<'a>,
    base: u64,
    io: Io,
    direct: OnceLock<Option<OwnedFd>>,
    probe: Option<Probe>,
    pub moved: Moved,
}

impl<'a> File<'a> {
    pub fn to_read(fd: BorrowedFd<'a>, base: u64, nbytes: u64, io: Io) -> File<'a> {
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

    pub fn to_write(fd: BorrowedFd<'a>, io: Io) -> File<'a> {
        let io = match io {
            Io::Auto if lives_in_memory(fd) => Io::Buffered,
            Io::Auto => Io::Direct,
            chosen => chosen,
        };
        File::new(fd, 0, io, None)
    }

    fn new(fd: BorrowedFd<'a>, base: u64, io: Io, probe: Option<Probe>) -> File<'a> {
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
                Err(Errno::INTR) => continue,
                Err(error) => *error == Errno::INVAL,
                Ok(done) => *done == 0,
            };
            match read {
                Err(error) if !refused => return Err(Error::io("reading", error, at, end - at)),
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
        direct: BorrowedFd<'_>,
        to: u64,
        start: u64,
        nbytes: u64,
    ) -> rustix::io::Result<u64> {
        let start = start - self.base;
        // SAFETY: the caller vouches for the room.
        if let Some(read) = unsafe { ring::read(direct, to, start, nbytes) } {
            let done = read?;
            self.moved.ring.fetch_add(done, Relaxed);
            return Ok(done);
        }
        // SAFETY: as above.
        let done = pread(direct, unsafe { bytes_mut(to, nbytes) }, start)? as u64;
        self.moved.direct.fetch_add(done, Relaxed);
        Ok(done)
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
        let vector = |part: &Part| {
            let address = part.address.expect("every part has memory");
            // SAFETY: the caller vouches for the memory.
            IoSliceMut::new(unsafe { bytes_mut(address, part.nbytes) })
        };
        let mut vectors: Vec<_> = parts.iter().map(vector).collect();
        let mut left = vectors.as_mut_slice();
        let (mut at, end) = match (parts.first(), parts.last()) {
            (Some(first), Some(last)) => (first.start, last.start + last.nbytes),
            _ => return Ok(()),
        };
        while at < end {
            match preadv(self.fd, left, at - self.base) {
                Ok(0) => return Err(Error::Truncated { offset: at }),
                Ok(done) => {
                    self.moved.buffered.fetch_add(done as u64, Relaxed);
                    IoSliceMut::advance_slices(&mut left, done);
                    at += done as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(Error::io("reading", error, at, end - at)),
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

    unsafe fn write_direct(
        &self,
        direct: BorrowedFd<'_>,
        from: u64,
        start: u64,
        nbytes: u64,
    ) -> Result<()> {
        let mut done = 0;
        while done < nbytes {
            let (at, left) = (start + done, nbytes - done);
            // SAFETY: the caller vouches for the memory.
            let wrote = match pwrite(direct, unsafe { bytes(from + done, left) }, at) {
                Ok(wrote) => wrote as u64,
                Err(Errno::INTR) => continue,
                Err(Errno::INVAL) => 0,
                Err(error) => return Err(Error::io("writing", error, at, left)),
            };
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
            let (at, left) = (start + done, nbytes - done);
            // SAFETY: the caller vouches for the memory.
            match pwrite(self.fd, unsafe { bytes(from + done, left) }, at) {
                Ok(0) => return Err(Error::io("writing", Errno::IO, at, left)),
                Ok(wrote) => {
                    self.moved.buffered.fetch_add(wrote as u64, Relaxed);
                    done += wrote as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(Error::io("writing", error, at, left)),
            }
        }
        Ok(())
    }

    /// Has the device begin to take in what was written: the sync before sealing then waits for
    /// little. A hint: an error shows up there.
    pub fn start_writeback(&self, start: u64, nbytes: u64) {
        let (fd, flags) = (self.fd.as_raw_fd(), libc::SYNC_FILE_RANGE_WRITE);
        // SAFETY: no memory is involved.
        unsafe { libc::sync_file_range(fd, start as i64, nbytes as i64, flags) };
    }

    /// Asks for room, so that direct writes need not extend the file one after another.
    pub fn reserve(&self, start: u64, nbytes: u64) {
        if self.io == Io::Direct && nbytes > 0 {
            // A file system that cannot do it loses only speed.
            let _ = fallocate(self.fd, FallocateFlags::empty(), start, nbytes);
        }
    }

    /// The descriptor for direct I/O, opened when first asked for; `None` where it is refused.
    fn direct_fd(&self) -> Option<BorrowedFd<'_>> {
        let opened = self.direct.get_or_init(|| {
            let mode = fcntl_getfl(self.fd).ok()? & OFlags::RWMODE;
            reopen(self.fd, mode | OFlags::DIRECT)
        });
        opened.as_ref().map(AsFd::as_fd)
    }
}
