//! Which bytes of a file are in memory already.

use std::ffi::c_void;
use std::os::fd::RawFd;

use crate::memory::{PAGE_NBYTES, align_down, align_up};

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

    /// Whether most of a range is not in the page cache.
    pub fn is_cold(&self, start: u64, end: u64) -> bool {
        let (start, end) = (align_down(start), align_up(end.min(self.nbytes)));
        if start >= end {
            return false;
        }
        let mut pages = vec![0u8; ((end - start) / PAGE_NBYTES) as usize];
        // SAFETY: the range lies within the mapping, and there is a byte for each of its pages.
        let status = unsafe {
            let place = (self.address + start) as *mut c_void;
            libc::mincore(place, (end - start) as usize, pages.as_mut_ptr())
        };
        let resident = pages.iter().filter(|&&page| page & 1 == 1).count();
        status == 0 && resident * 2 < pages.len()
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
