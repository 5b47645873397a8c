//! Anonymous memory of whole pages.

use std::ffi::c_void;
use std::io;

pub const PAGE_NBYTES: u64 = 4096;
const HUGE_PAGE_NBYTES: u64 = 2 << 20;

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
        let nbytes = nbytes.max(1).div_ceil(HUGE_PAGE_NBYTES) * HUGE_PAGE_NBYTES;
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping, placed by the kernel.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                nbytes as usize,
                protection,
                flags,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let region = Region {
            address: address as u64,
            nbytes,
        };
        // SAFETY: the range was mapped above; huge pages are a wish, writing touches each page.
        unsafe {
            libc::madvise(address, nbytes as usize, libc::MADV_HUGEPAGE);
            let bytes = address.cast::<u8>();
            for at in (0..nbytes).step_by(PAGE_NBYTES as usize) {
                bytes.add(at as usize).write_volatile(0);
            }
        }
        Ok(region)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, with this size.
        unsafe { libc::munmap(self.address as *mut c_void, self.nbytes as usize) };
    }
}

/// Views memory as bytes.
///
/// # Safety
/// The range must be valid, and nobody may write to it while the slice lives.
pub unsafe fn bytes<'a>(address: u64, nbytes: u64) -> &'a [u8] {
    // SAFETY: the caller vouches for the range.
    unsafe { std::slice::from_raw_parts(address as *const u8, nbytes as usize) }
}
