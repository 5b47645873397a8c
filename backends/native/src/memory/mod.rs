//! Anonymous memory of whole pages.

pub mod lane;
pub mod pool;

use std::ffi::c_void;
use std::io;
use std::ptr;
use std::thread;

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use rustix::rand::{GetRandomFlags, getrandom};

pub const PAGE_NBYTES: u64 = 4096;
const HUGE_PAGE_NBYTES: u64 = 2 << 20;
const MAX_TOUCHERS: u64 = 8;
const MIN_TOUCHED_NBYTES: u64 = 4 << 20;

pub fn align_down(value: u64) -> u64 {
    value / PAGE_NBYTES * PAGE_NBYTES
}

pub fn align_up(value: u64) -> u64 {
    value.div_ceil(PAGE_NBYTES) * PAGE_NBYTES
}

/// Zeroed memory, touched already, in huge pages where the kernel gives them.
pub struct Region {
    pub address: u64,
    nbytes: u64,
}

impl Region {
    pub fn new(nbytes: u64) -> io::Result<Region> {
        let nbytes = nbytes.max(1).next_multiple_of(HUGE_PAGE_NBYTES);
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping, placed by the kernel.
        let address =
            unsafe { mmap_anonymous(ptr::null_mut(), nbytes as usize, protection, flags)? };
        let region = Region {
            address: address as u64,
            nbytes,
        };
        // SAFETY: the range was mapped above; huge pages are a wish.
        let _ = unsafe { madvise(address, nbytes as usize, Advice::LinuxHugepage) };
        region.touch();
        Ok(region)
    }

    /// Writes to each page; by several threads, since the kernel zeroes a page when it gives it.
    fn touch(&self) {
        let each = self.nbytes.div_ceil(MAX_TOUCHERS).max(MIN_TOUCHED_NBYTES);
        let each = each.next_multiple_of(HUGE_PAGE_NBYTES);
        let touch = |start: u64| {
            for at in (start..self.nbytes.min(start + each)).step_by(PAGE_NBYTES as usize) {
                // SAFETY: within the mapping, which nobody else knows of yet.
                unsafe { ((self.address + at) as *mut u8).write_volatile(0) };
            }
        };
        thread::scope(|scope| {
            for start in (each..self.nbytes).step_by(each as usize) {
                let started = thread::Builder::new().spawn_scoped(scope, move || touch(start));
                if started.is_err() {
                    touch(start);
                }
            }
            touch(0);
        });
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, with this size.
        let _ = unsafe { munmap(self.address as *mut c_void, self.nbytes as usize) };
    }
}

/// Whether memory may be written to; one byte of it is. A write of our own that is refused would be a
/// signal, the kernel's is an error.
///
/// # Safety
/// Nobody may use the byte meanwhile.
pub unsafe fn is_writable(address: u64) -> bool {
    // SAFETY: the caller vouches for the byte, which nobody but the kernel writes to.
    let byte = unsafe { bytes_mut(address, 1) };
    // A system call for sure: the C library might write by itself.
    getrandom(byte, GetRandomFlags::NONBLOCK) != Err(Errno::FAULT)
}

/// Views memory as bytes that can be written to.
///
/// # Safety
/// The range must be valid, and nobody else may use it while the slice lives.
pub unsafe fn bytes_mut<'a>(address: u64, nbytes: u64) -> &'a mut [u8] {
    // SAFETY: the caller vouches for the range.
    unsafe { std::slice::from_raw_parts_mut(address as *mut u8, nbytes as usize) }
}

/// Views memory as bytes.
///
/// # Safety
/// The range must be valid, and nobody may write to it while the slice lives.
pub unsafe fn bytes<'a>(address: u64, nbytes: u64) -> &'a [u8] {
    // SAFETY: the caller vouches for the range.
    unsafe { std::slice::from_raw_parts(address as *const u8, nbytes as usize) }
}
