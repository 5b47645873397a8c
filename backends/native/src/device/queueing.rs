//! Handing work to a stream, and knowing when it is done.

use std::sync::atomic::{Ordering::Acquire, fence};
use std::time::{Duration, Instant};

use crate::cuda::Stream;
use crate::cuda::kernels::{CopyRange, Kernels, SEGMENT_NBYTES};
use crate::error::Result;
use crate::memory::lane::{MAX_PARTS, Table};

/// How long a thread waits before it naps, how long it naps, and how often it looks for trouble.
const SPIN: Duration = Duration::from_micros(100);
const NAP: Duration = Duration::from_micros(20);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Has the device set a word once it has done what the stream holds now.
pub fn mark(stream: &Stream, word: Table, value: u32) -> Result<()> {
    // SAFETY: the word is in registered memory of a lane.
    unsafe { stream.write_value(word.device, value) }
}

/// What a word that the device sets holds now.
pub fn read(word: Table) -> u32 {
    // SAFETY: the word is in registered memory of a lane.
    let value = unsafe { (word.host as *const u32).read_volatile() };
    fence(Acquire);
    value
}

/// Sets a word that no device is about to set.
pub fn reset(word: Table) {
    // SAFETY: the word is in registered memory of a lane.
    unsafe { (word.host as *mut u32).write_volatile(0) };
}

/// Waits for a word; not by a call to the driver, where threads would queue.
pub fn wait(stream: &Stream, word: Table, value: u32) -> Result<()> {
    let mut pause = Pause::new();
    while read(word) != value {
        if pause.once() {
            stream.check()?;
        }
    }
    Ok(())
}

/// Spins at first, then naps.
pub struct Pause {
    began: Instant,
    looked: Duration,
}

impl Pause {
    pub fn new() -> Pause {
        Pause {
            began: Instant::now(),
            looked: Duration::ZERO,
        }
    }

    /// Waits a little; says whether it is time to look for trouble.
    pub fn once(&mut self) -> bool {
        let waited = self.began.elapsed();
        if waited < SPIN {
            std::hint::spin_loop();
            return false;
        }
        std::thread::sleep(NAP);
        let look = waited > self.looked + LOOK_EVERY;
        if look {
            self.looked = waited;
        }
        look
    }
}

/// Copies within the device, in as many launches as the table of parts allows.
///
/// # Safety
/// The ranges (from, to, nbytes) must be valid device memory; no kernel may be reading the table.
pub unsafe fn scatter(
    kernels: &Kernels,
    stream: &Stream,
    table: Table,
    ranges: impl Iterator<Item = (u64, u64, u64)>,
) -> Result<()> {
    let mut count = 0;
    for (mut from, mut to, mut left) in ranges {
        while left > 0 {
            let nbytes = left.min(SEGMENT_NBYTES);
            if count == MAX_PARTS {
                // SAFETY: the table holds `count` parts.
                unsafe { kernels.copy(stream, table.device, count as u32)? };
                stream.synchronize()?;
                count = 0;
            }
            let place = (table.host as *mut CopyRange).wrapping_add(count as usize);
            // SAFETY: the table has room for MAX_PARTS, and no kernel reads it now.
            unsafe { place.write(CopyRange { from, to, nbytes }) };
            (count, from, to, left) = (count + 1, from + nbytes, to + nbytes, left - nbytes);
        }
    }
    // SAFETY: as above.
    unsafe { kernels.copy(stream, table.device, count as u32) }
}
