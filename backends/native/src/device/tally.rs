//! Digests of bytes in device memory, computed many pieces at a time.
//!
//! A launch for each piece would cost the driver more than it costs the device, and would keep
//! copies that come after it on the same stream waiting.

use crate::cuda::kernels::{SEGMENT_NBYTES, Segment};
use crate::device::job::DeviceJob;
use crate::device::queueing::{mark, reset, wait};
use crate::error::Result;
use crate::job::crc;
use crate::job::ledger::Span;
use crate::job::plan::{Part, Piece};
use crate::memory::lane::{Batch, Lane, LaneCuda, MAX_SEGMENTS};

/// What makes up the digests of a batch, in order.
enum Fragment {
    /// So many bytes whose remainder the device computes.
    OnDevice(u64),
    /// A gap's bytes, and their remainder.
    Gap(u64, u32),
    /// The span before this is whole.
    End(Span),
}

/// A table of segments, and what is made of their remainders.
struct Open {
    batch: Batch,
    segments: u64,
    fragments: Vec<Fragment>,
}

pub struct Tally<'a> {
    shared: &'a DeviceJob<'a>,
    cuda: &'a LaneCuda,
    /// One is filled while the device works on the other.
    tables: [Open; 2],
    filling: usize,
    /// The remainder of the span that is not whole yet.
    remainder: u32,
}

impl<'a> Tally<'a> {
    pub fn new(shared: &'a DeviceJob<'a>, lane: &'a Lane) -> Tally<'a> {
        let open = |index| Open {
            batch: lane.batch(index),
            segments: 0,
            fragments: Vec::new(),
        };
        Tally {
            shared,
            cuda: lane.cuda(),
            tables: [open(0), open(1)],
            filling: 0,
            remainder: 0,
        }
    }

    /// Adds a piece that has landed; `gap` gives the remainder of what no extent wanted.
    pub fn add(&mut self, piece: Piece, gap: impl Fn(Part) -> Result<u32>) -> Result<()> {
        if !self.shared.digests_on_device {
            return Ok(());
        }
        let job = self.shared.job;
        for span in job.spans(piece) {
            for part in job.plan.parts(span.start, span.end) {
                match part.address {
                    Some(address) => self.add_segments(address, part.nbytes)?,
                    None => self.push(Fragment::Gap(part.nbytes, gap(part)?)),
                }
            }
            self.push(Fragment::End(span));
        }
        Ok(())
    }

    /// Launches what is left, and waits for all of it.
    pub fn finish(&mut self) -> Result<()> {
        self.turn()?;
        self.turn()
    }

    fn push(&mut self, fragment: Fragment) {
        self.tables[self.filling].fragments.push(fragment);
    }

    fn add_segments(&mut self, mut address: u64, mut left: u64) -> Result<()> {
        while left > 0 {
            if self.tables[self.filling].segments == MAX_SEGMENTS {
                self.turn()?;
            }
            let nbytes = left.min(SEGMENT_NBYTES);
            let table = &mut self.tables[self.filling];
            let place = table.batch.segments.host as *mut Segment;
            let place = place.wrapping_add(table.segments as usize);
            // SAFETY: the table has room for MAX_SEGMENTS, and no kernel reads it now.
            unsafe { place.write(Segment { address, nbytes }) };
            table.segments += 1;
            self.push(Fragment::OnDevice(nbytes));
            (address, left) = (address + nbytes, left - nbytes);
        }
        Ok(())
    }

    /// Launches the table that is being filled, and takes what the other holds.
    fn turn(&mut self) -> Result<()> {
        let full = &self.tables[self.filling];
        if full.segments > 0 {
            let kernels = self.shared.kernels()?;
            let (segments, remainders) = (full.batch.segments.device, full.batch.remainders.device);
            let stream = &self.cuda.digests;
            // SAFETY: the table holds so many segments and is left alone until it is done.
            unsafe { kernels.remainders(stream, segments, remainders, full.segments as u32)? };
            reset(full.batch.done);
            mark(stream, full.batch.done, 1)?;
        }
        self.filling = 1 - self.filling;
        self.take()
    }

    /// Waits for the table that is to be filled next, and records what was in it.
    fn take(&mut self) -> Result<()> {
        let table = &mut self.tables[self.filling];
        if table.segments > 0 {
            wait(&self.cuda.digests, table.batch.done, 1)?;
        }
        table.segments = 0;
        let mut place = table.batch.remainders.host as *const u32;
        for fragment in table.fragments.drain(..) {
            match fragment {
                Fragment::OnDevice(nbytes) => {
                    // SAFETY: the kernel that wrote the table is done.
                    let after = unsafe { place.read_volatile() };
                    place = place.wrapping_add(1);
                    self.remainder = crc::join(self.remainder, after, nbytes);
                }
                Fragment::Gap(nbytes, after) => {
                    self.remainder = crc::join(self.remainder, after, nbytes);
                }
                Fragment::End(span) => {
                    let remainder = std::mem::take(&mut self.remainder);
                    self.shared.job.record(span, remainder)?;
                }
            }
        }
        Ok(())
    }
}
