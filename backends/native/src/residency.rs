//! Which bytes of a file are in memory already.

use std::ffi::c_void;
use std::os::fd::RawFd;

use crate::memory::{PAGE_NBYTES, align_down, align_up};

const SAMPLES: u64 = 8;
const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// A mapping that is only asked which of its pages are resident. It is never touched: where a file
/// is truncated meanwhile, that would end the process.
pub struct View {
    address: u64,
    nbytes: u64,
}

impl View {
    pub fn new(fd: RawFd, nbytes: u64) -> Option<View> {
        if nbytes == 0 {
            return None;
        }
        // SAFETY: a new mapping, placed by the kernel; nothing ever touches its pages.
        let address = unsafe {
            let place = std::ptr::null_mut();
            libc::mmap(
                place,
                nbytes as usize,
                libc::PROT_READ,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        (address != libc::MAP_FAILED).then_some(View {
            address: address as u64,
            nbytes,
        })
    }

    /// Whether most of a range is not in the page cache; judged by a few of its pages, for asking
    /// about each takes the kernel as long as reading it from there.
    pub fn is_cold(&self, start: u64, end: u64) -> bool {
        let (start, end) = (align_down(start), end.min(self.nbytes));
        if start >= end {
            return false;
        }
        let step = align_up((end - start) / SAMPLES).max(PAGE_NBYTES);
        let pages = (start..end).step_by(step as usize);
        let count = pages.size_hint().0;
        pages.filter(|&page| self.is_resident(page)).count() * 2 < count
    }

    /// Whether a page is in memory; it counts as such where the kernel does not say.
    fn is_resident(&self, page: u64) -> bool {
        let mut found = 1u8;
        // SAFETY: the page lies within the mapping, and there is a byte for it.
        unsafe {
            let place = (self.address + page) as *mut c_void;
            libc::mincore(place, 1, &mut found);
        }
        found & 1 == 1
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, with this size.
        unsafe { libc::munmap(self.address as *mut c_void, self.nbytes as usize) };
    }
}

/// Whether a file has no device behind it, so that there is no way around the page cache.
pub fn lives_in_memory(fd: RawFd) -> bool {
    // SAFETY: all zeros is a valid statfs, and the call fills it.
    unsafe {
        let mut status: libc::statfs = std::mem::zeroed();
        libc::fstatfs(fd, &mut status) == 0
            && [TMPFS_MAGIC, RAMFS_MAGIC, HUGETLBFS_MAGIC].contains(&(status.f_type as i64))
    }
}
