//! Which bytes of a file are in memory already.

use std::ffi::c_void;
use std::hash::{BuildHasher, RandomState};
use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::fs::{Access, Advice, AtFlags, CWD, OFlags, accessat, fadvise, fstat, fstatfs};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::param::page_size;
use rustix::process::geteuid;

use crate::io::reopen::{name_of, reopen};

/// How many pages of a range are looked at, at most; the majority decides.
const SAMPLES: u64 = 5;
const MAJORITY: u64 = SAMPLES / 2 + 1;
/// The samples in an order that spreads the first few.
const STRIDE: u64 = 2;
const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// Looks at single pages of a file; it touches none, and waits for none.
pub struct Probe {
    way: Way,
    nbytes: u64,
    page_nbytes: u64,
    turn: AtomicU64,
    keys: RandomState,
}

enum Way {
    /// Reads that fail rather than wait for the device. The descriptor is for this alone: the
    /// kernel fetches a page that it does not find, and with random access only that one.
    Unwaiting(OwnedFd),
    /// Of a file that this process owns, or might write to: the kernel tells no others what is in
    /// memory, and calls all of it resident.
    Mapped(View),
}

impl Probe {
    /// `None` where the kernel would not tell.
    pub fn new(fd: BorrowedFd<'_>, nbytes: u64) -> Option<Probe> {
        if nbytes == 0 {
            return None;
        }
        let way = match unwaiting(fd) {
            Some(fd) => Way::Unwaiting(fd),
            None if is_told(fd) => Way::Mapped(View::new(fd, nbytes)?),
            None => return None,
        };
        Some(Probe {
            way,
            nbytes,
            page_nbytes: page_size() as u64,
            turn: AtomicU64::new(0),
            keys: RandomState::new(),
        })
    }

    /// Whether most of a range is not in the page cache; judged by a few of its pages, for asking
    /// about each takes the kernel as long as reading it from there.
    pub fn is_cold(&self, start: u64, end: u64) -> bool {
        let (first, end) = (start / self.page_nbytes, end.min(self.nbytes));
        let pages = end.div_ceil(self.page_nbytes).saturating_sub(first);
        let samples = SAMPLES.min(pages);
        let (mut resident, mut missing) = (0, 0);
        for index in 0..samples {
            let place = if samples == SAMPLES {
                index * STRIDE % SAMPLES
            } else {
                index
            };
            let (from, until) = (place * pages / samples, (place + 1) * pages / samples);
            let page = first + from + self.random() % (until - from);
            if self.is_resident(page * self.page_nbytes) {
                resident += 1;
            } else {
                missing += 1;
            }
            if resident == MAJORITY || missing == MAJORITY {
                break;
            }
        }
        missing > resident
    }

    /// Whether a page is in memory; it counts as such where the kernel does not say.
    fn is_resident(&self, offset: u64) -> bool {
        match &self.way {
            Way::Unwaiting(fd) => read_byte(fd.as_fd(), offset) != Err(Errno::AGAIN),
            Way::Mapped(view) => view.is_resident(offset),
        }
    }

    /// Another number each time: a page that was looked at before may be in memory for that reason.
    fn random(&self) -> u64 {
        self.keys.hash_one(self.turn.fetch_add(1, Relaxed))
    }
}

/// A descriptor of the same file, for random access, that can be asked without waiting.
fn unwaiting(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    let fd = reopen(fd, OFlags::RDONLY)?;
    fadvise(&fd, 0, None, Advice::Random).ok()?;
    matches!(read_byte(fd.as_fd(), 0), Ok(_) | Err(Errno::AGAIN)).then_some(fd)
}

/// Reads a byte if that takes no waiting.
fn read_byte(fd: BorrowedFd<'_>, offset: u64) -> rustix::io::Result<usize> {
    let mut byte = [0];
    let mut vectors = [IoSliceMut::new(&mut byte)];
    preadv2(fd, &mut vectors, offset, ReadWriteFlags::NOWAIT)
}

/// Whether the kernel tells this process which pages of a mapping are in memory.
fn is_told(fd: BorrowedFd<'_>) -> bool {
    let user = geteuid();
    let owns = fstat(fd).is_ok_and(|file| user.is_root() || user.as_raw() == file.st_uid);
    owns || accessat(CWD, name_of(fd), Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

/// A mapping that is only asked which of its pages are resident. It is never touched: where a file
/// is truncated meanwhile, that would end the process.
struct View {
    address: u64,
    nbytes: u64,
}

impl View {
    fn new(fd: BorrowedFd<'_>, nbytes: u64) -> Option<View> {
        let (place, length) = (ptr::null_mut(), nbytes as usize);
        // SAFETY: a new mapping, placed by the kernel; nothing ever touches its pages.
        let mapped = unsafe { mmap(place, length, ProtFlags::READ, MapFlags::SHARED, fd, 0) };
        let address = mapped.ok()? as u64;
        Some(View { address, nbytes })
    }

    /// The offset must be that of a page.
    fn is_resident(&self, offset: u64) -> bool {
        let mut found = 1u8;
        // SAFETY: the page lies within the mapping, and there is a byte for it.
        unsafe {
            let place = (self.address + offset) as *mut c_void;
            libc::mincore(place, 1, &mut found);
        }
        found & 1 == 1
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, with this size.
        let _ = unsafe { munmap(self.address as *mut c_void, self.nbytes as usize) };
    }
}

/// Whether a file has no device behind it, so that there is no way around the page cache.
pub fn lives_in_memory(fd: BorrowedFd<'_>) -> bool {
    let magics = [TMPFS_MAGIC, RAMFS_MAGIC, HUGETLBFS_MAGIC];
    fstatfs(fd).is_ok_and(|status| magics.contains(&status.f_type))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    const NBYTES: u64 = 4 << 20;

    /// A file of its own for each test, in the folder of the build: that is on a device.
    fn file(name: &str) -> File {
        let path = std::env::current_exe().unwrap();
        let path = path.with_file_name(format!("{name}-{}", std::process::id()));
        let mut file = File::create_new(&path).unwrap();
        file.write_all(&vec![7; NBYTES as usize]).unwrap();
        file.sync_all().unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    fn evict(file: &File) {
        fadvise(file, 0, None, Advice::DontNeed).unwrap();
    }

    fn ways(file: &File) -> Vec<Probe> {
        let fd = file.as_fd();
        let mapped = Probe {
            way: Way::Mapped(View::new(fd, NBYTES).unwrap()),
            nbytes: NBYTES,
            page_nbytes: 4096,
            turn: AtomicU64::new(0),
            keys: RandomState::new(),
        };
        Probe::new(fd, NBYTES).into_iter().chain([mapped]).collect()
    }

    #[test]
    fn tells_cold_ranges_from_warm_ones() {
        let mut file = file("tells");
        if lives_in_memory(file.as_fd()) {
            return;
        }
        for probe in ways(&file) {
            evict(&file);
            assert!(probe.is_cold(0, NBYTES));
            assert!(probe.is_cold(NBYTES - 4096, NBYTES));
        }
        let mut all = Vec::new();
        file.read_to_end(&mut all).unwrap();
        for probe in ways(&file) {
            assert!(!probe.is_cold(0, NBYTES));
            assert!(!probe.is_cold(5000, 5001));
        }
    }

    #[test]
    fn looking_does_not_make_a_file_warm() {
        let file = file("looking");
        if lives_in_memory(file.as_fd()) {
            return;
        }
        let fd = file.as_fd();
        for _ in 0..20 {
            let probe = Probe::new(fd, NBYTES).unwrap();
            evict(&file);
            assert!((0..10).all(|_| probe.is_cold(0, NBYTES)));
        }
    }

    #[test]
    fn what_lies_beyond_the_end_is_not_cold() {
        let file = file("beyond");
        for probe in ways(&file) {
            assert!(!probe.is_cold(NBYTES, NBYTES + 5));
            assert!(!probe.is_cold(3, 3));
        }
        assert!(Probe::new(file.as_fd(), 0).is_none());
    }

    #[test]
    fn where_reads_cannot_but_wait_a_mapping_is_asked() {
        let (end, _other) = std::io::pipe().unwrap();
        assert!(read_byte(end.as_fd(), 0).is_err());
        assert!(Probe::new(end.as_fd(), 5).is_none());
    }
}
