//! A lane: bounce memory, page-locked where it is for a device, and what goes with it.

use crate::cuda::{Device, Registration, Stream};
use crate::error::{Error, Result};
use crate::memory::{PAGE_NBYTES, Region, align_up};

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

    /// All that a lane takes.
    pub fn nbytes(&self) -> u64 {
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
    pub fn new(shape: Shape, device: Option<Device>) -> Result<Lane> {
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
