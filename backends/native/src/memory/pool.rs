//! Lanes of bounce memory, kept for the life of the process: page-locking memory is dear.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::cuda::{Device, Registration, Stream};
use crate::error::{Error, Result};
use crate::memory::{PAGE_NBYTES, Region, align_up};

/// The most that all lanes together take.
pub const MAX_NBYTES: u64 = 384 << 20;

/// The most parts that one launch copies.
pub const MAX_PARTS: u64 = 4096;
/// The most segments that one launch takes the remainders of.
pub const MAX_SEGMENTS: u64 = 512;
const PART_NBYTES: u64 = 24;
const SEGMENT_NBYTES: u64 = 16;
const REMAINDER_NBYTES: u64 = 4;
const DONE_NBYTES: u64 = 64;
const BATCHES: u64 = 2;

/// Copies that are on their way at once hide the time between two of them.
pub const STREAMS: usize = 2;

/// What a lane is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub device: Option<i32>,
    pub slots: usize,
    pub piece_nbytes: u64,
    /// Without room for bytes, for transfers that need none.
    pub bounce: bool,
}

impl Shape {
    /// Room for a piece that begins and ends anywhere in a page.
    fn slot_nbytes(&self) -> u64 {
        if self.bounce {
            align_up(self.piece_nbytes) + 2 * PAGE_NBYTES
        } else {
            0
        }
    }

    fn tables_nbytes(&self) -> u64 {
        align_up(DONE_NBYTES + MAX_PARTS * PART_NBYTES)
    }

    fn batch_nbytes(&self) -> u64 {
        align_up(DONE_NBYTES + MAX_SEGMENTS * (SEGMENT_NBYTES + REMAINDER_NBYTES))
    }

    fn nbytes(&self) -> u64 {
        let slots = self.slots as u64;
        let control = slots * self.tables_nbytes() + BATCHES * self.batch_nbytes();
        slots * self.slot_nbytes() + self.device.map_or(0, |_| control)
    }
}

/// Bounce memory and, for a device, streams.
pub struct Lane {
    // Dropped in this order: nothing is in flight any more when a lane is dropped.
    cuda: Option<LaneCuda>,
    region: Region,
    pub shape: Shape,
}

pub struct LaneCuda {
    pub copies: [Stream; STREAMS],
    /// Apart from copies, which would wait for kernels before them on one stream.
    pub digests: Stream,
    registration: Registration,
    device: Device,
}

impl Drop for LaneCuda {
    fn drop(&mut self) {
        // Lanes are made and dropped by workers, whose context is theirs to change.
        let _ = self.device.enter();
    }
}

/// Where a slot's bytes and tables are.
#[derive(Clone, Copy)]
pub struct Slot {
    pub host: u64,
    pub parts: Table,
    /// A word that the device sets when it is done with the slot.
    pub done: Table,
}

/// Where the tables of a launch for digests are.
#[derive(Clone, Copy)]
pub struct Batch {
    pub segments: Table,
    pub remainders: Table,
    pub done: Table,
}

/// A place in registered memory, as the host and as kernels see it.
#[derive(Clone, Copy)]
pub struct Table {
    pub host: u64,
    pub device: u64,
}

impl Lane {
    fn new(shape: Shape, device: Option<Device>) -> Result<Lane> {
        let region = Region::new(shape.nbytes()).map_err(|error| Error::system("mmap", error))?;
        let cuda = match device {
            None => None,
            Some(device) => Some(LaneCuda {
                device,
                copies: [Stream::new()?, Stream::new()?],
                digests: Stream::new()?,
                // SAFETY: the region is part of the lane and dropped after the registration.
                registration: unsafe { Registration::new(region.address, shape.nbytes())? },
            }),
        };
        Ok(Lane {
            cuda,
            region,
            shape,
        })
    }

    pub fn cuda(&self) -> &LaneCuda {
        self.cuda
            .as_ref()
            .expect("the lane of a device has streams")
    }

    fn table(&self, offset: u64) -> Table {
        let seen = self
            .cuda
            .as_ref()
            .map_or(0, |cuda| cuda.registration.device_address);
        Table {
            host: self.region.address + offset,
            device: seen + offset,
        }
    }

    pub fn slot(&self, index: usize) -> Slot {
        let (shape, index) = (self.shape, index as u64);
        let tables = shape.slots as u64 * shape.slot_nbytes() + index * shape.tables_nbytes();
        Slot {
            host: self.region.address + index * shape.slot_nbytes(),
            done: self.table(tables),
            parts: self.table(tables + DONE_NBYTES),
        }
    }

    pub fn batch(&self, index: usize) -> Batch {
        let shape = self.shape;
        let slots = shape.slots as u64 * (shape.slot_nbytes() + shape.tables_nbytes());
        let start = slots + index as u64 * shape.batch_nbytes();
        Batch {
            done: self.table(start),
            segments: self.table(start + DONE_NBYTES),
            remainders: self.table(start + DONE_NBYTES + MAX_SEGMENTS * SEGMENT_NBYTES),
        }
    }
}

struct Pool {
    idle: Vec<Lane>,
    taken_nbytes: u64,
    process: u32,
}

impl Pool {
    /// Locks the pool. A forked process begins anew: what threads of its parent had on loan does
    /// not come back to it, and what the driver registered is its parent's.
    fn lock() -> MutexGuard<'static, Pool> {
        let mut pool = POOL.lock().unwrap();
        let process = std::process::id();
        if pool.process != process {
            std::mem::take(&mut pool.idle)
                .into_iter()
                .for_each(std::mem::forget);
            pool.taken_nbytes = 0;
            pool.process = process;
        }
        pool
    }
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    idle: Vec::new(),
    taken_nbytes: 0,
    process: 0,
});
static RETURNED: Condvar = Condvar::new();
/// How often one who waits for memory is asked whether it still wants it.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// A lane on loan.
pub struct Loan {
    lane: Option<Lane>,
}

impl Loan {
    /// Takes a lane; where all memory is on loan, waits as long as `wait` says so, then gives up.
    pub fn take(
        shape: Shape,
        device: Option<Device>,
        wait: impl Fn() -> bool,
    ) -> Result<Option<Loan>> {
        let mut pool = Pool::lock();
        loop {
            if let Some(index) = pool.idle.iter().position(|lane| lane.shape == shape) {
                let lane = Some(pool.idle.swap_remove(index));
                return Ok(Some(Loan { lane }));
            }
            let needed = shape.nbytes();
            while pool.taken_nbytes + needed > MAX_NBYTES && !pool.idle.is_empty() {
                let lane = pool.idle.swap_remove(0);
                pool.taken_nbytes -= lane.shape.nbytes();
                drop(lane);
                if let Some(device) = device {
                    // A lane of another device has left this thread in its context.
                    device.enter()?;
                }
            }
            // Lanes without bounce memory are small, and those who wait for bounce memory to be given
            // back wait for who holds one of these.
            let fits = pool.taken_nbytes + needed <= MAX_NBYTES;
            if fits || pool.taken_nbytes == 0 || !shape.bounce {
                pool.taken_nbytes += needed;
                drop(pool);
                return Loan::make(shape, device).map(Some);
            }
            if !wait() {
                return Ok(None);
            }
            pool = RETURNED.wait_timeout(pool, ASK_EVERY).unwrap().0;
        }
    }

    fn make(shape: Shape, device: Option<Device>) -> Result<Loan> {
        match Lane::new(shape, device) {
            Ok(lane) => Ok(Loan { lane: Some(lane) }),
            Err(error) => {
                Pool::lock().taken_nbytes -= shape.nbytes();
                RETURNED.notify_all();
                Err(error)
            }
        }
    }

    pub fn lane(&self) -> &Lane {
        self.lane.as_ref().expect("present until dropped")
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.take() {
            Pool::lock().idle.push(lane);
            RETURNED.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All tests share one pool.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn a_lane_without_bounce_memory_is_never_waited_for() {
        let _alone = ALONE.lock().unwrap();
        let large = Shape {
            device: None,
            slots: 1,
            piece_nbytes: MAX_NBYTES,
            bounce: true,
        };
        let small = Shape {
            bounce: false,
            ..large
        };
        let _all = Loan::take(large, None, || true).unwrap().unwrap();
        assert!(Loan::take(large, None, || false).unwrap().is_none());
        assert!(Loan::take(small, None, || true).unwrap().is_some());
    }

    #[test]
    fn a_lane_comes_back_and_slots_are_apart() {
        let _alone = ALONE.lock().unwrap();
        let shape = Shape {
            device: None,
            slots: 3,
            piece_nbytes: 1 << 16,
            bounce: true,
        };
        let loan = Loan::take(shape, None, || true).unwrap().unwrap();
        let starts: Vec<_> = (0..3).map(|i| loan.lane().slot(i).host).collect();
        assert!(
            starts
                .windows(2)
                .all(|pair| pair[1] - pair[0] >= (1 << 16) + 2 * PAGE_NBYTES)
        );
        assert!(starts.iter().all(|start| start % PAGE_NBYTES == 0));
        drop(loan);
        let again = Loan::take(shape, None, || true).unwrap().unwrap();
        assert_eq!(again.lane().slot(0).host, starts[0]);
    }
}
