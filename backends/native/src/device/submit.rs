//! The thread that hands pieces to the device, and learns when they have landed.

use std::collections::VecDeque;

use crate::cuda::Stream;
use crate::device::feed::{Feed, Filled};
use crate::device::job::DeviceJob;
use crate::device::queueing::{Pause, mark, read, reset, scatter};
use crate::device::tally::Tally;
use crate::error::Result;
use crate::io::source::Source;
use crate::job::plan::Part;
use crate::memory::lane::{Lane, LaneCuda, STREAMS, Table};

/// How many pieces of a pinned source are under way on each stream.
const PINNED_AT_ONCE: usize = 4;

struct Landing {
    filled: Filled,
    ticket: u32,
}

/// What it has in flight is waited for before it is dropped.
pub struct Submitter<'a> {
    shared: &'a DeviceJob<'a>,
    lane: &'a Lane,
    cuda: &'a LaneCuda,
    source: &'a Source<'a>,
    feed: &'a Feed<'a>,
    tally: Tally<'a>,
    /// For each stream, in order.
    landing: [VecDeque<Landing>; STREAMS],
    tickets: [u32; STREAMS],
    next: usize,
}

impl<'a> Submitter<'a> {
    pub fn new(
        shared: &'a DeviceJob<'a>,
        lane: &'a Lane,
        source: &'a Source<'a>,
        feed: &'a Feed<'a>,
    ) -> Submitter<'a> {
        (0..STREAMS).for_each(|stream| reset(lane.slot(stream).done));
        Submitter {
            shared,
            lane,
            cuda: lane.cuda(),
            source,
            feed,
            tally: Tally::new(shared, lane),
            landing: Default::default(),
            tickets: [0; STREAMS],
            next: 0,
        }
    }

    /// Hands over pieces until there are no more and all have landed.
    ///
    /// # Safety
    /// The memory of the plan's extents must be valid device memory.
    pub unsafe fn run(&mut self) -> Result<()> {
        let mut pause = Pause::new();
        loop {
            // Asked for first: what was filled before the last worker left is then seen.
            let open = self.feed.is_open();
            // SAFETY: the caller vouches for the extents.
            let handed = unsafe { self.hand_over()? };
            let landed = self.take_landed()?;
            if handed + landed > 0 {
                pause = Pause::new();
                continue;
            }
            let idle = self.landing.iter().all(VecDeque::is_empty);
            if self.shared.job.control.is_stopped() || (idle && !open) {
                break;
            }
            if pause.once() {
                self.cuda.copies.iter().try_for_each(Stream::check)?;
            }
        }
        self.tally.finish()
    }

    /// Hands over a piece, if there is one, to the stream whose turn it is.
    ///
    /// # Safety
    /// As `run`.
    unsafe fn hand_over(&mut self) -> Result<usize> {
        let stream = self.next;
        let Some(filled) = self.next_filled(stream) else {
            return Ok(0);
        };
        let (piece, ticket) = (filled.piece, self.tickets[stream].wrapping_add(1));
        self.landing[stream].push_back(Landing { filled, ticket });
        self.tickets[stream] = ticket;
        self.next = (stream + 1) % STREAMS;
        // SAFETY: the piece is left alone until it has landed.
        unsafe { self.send(stream, filled) }
            .and_then(|()| mark(&self.cuda.copies[stream], self.done(stream), ticket))
            .map_err(|error| error.at(piece.start, piece.end))?;
        Ok(1)
    }

    fn next_filled(&self, stream: usize) -> Option<Filled> {
        let Source::Pinned { address, .. } = self.source else {
            return self.feed.take();
        };
        if self.landing[stream].len() >= PINNED_AT_ONCE {
            return None;
        }
        let piece = self.shared.job.control.take()?;
        // One that no piece holds which has not landed.
        let slot = stream + self.tickets[stream] as usize % PINNED_AT_ONCE * STREAMS;
        let from = address + piece.start;
        Some(Filled { piece, from, slot })
    }

    fn done(&self, stream: usize) -> Table {
        self.lane.slot(stream).done
    }

    /// # Safety
    /// The piece must be in page-locked memory, and the memory of the extents valid.
    unsafe fn send(&self, stream: usize, filled: Filled) -> Result<()> {
        let Filled { piece, from, slot } = filled;
        let parts = self.shared.job.plan.parts(piece.start, piece.end);
        let wanted =
            parts.filter_map(|part| Some((part.start - piece.start, part.address?, part.nbytes)));
        let copies = &self.cuda.copies[stream];
        if !self.shared.is_staged(piece) {
            for (at, address, nbytes) in wanted {
                // SAFETY: the caller vouches for both ranges.
                unsafe { copies.copy_to_device(address, from + at, nbytes)? };
            }
            return Ok(());
        }
        let staging = self.shared.staging(slot, piece);
        let ranges = wanted.map(|(at, address, nbytes)| (staging + at, address, nbytes));
        let table = self.lane.slot(slot).parts;
        // SAFETY: staging has room for a piece, and what the slot held before has landed; the rest
        // is the caller's word.
        unsafe {
            copies.copy_to_device(staging, from, piece.nbytes())?;
            scatter(self.shared.kernels()?, copies, table, ranges)
        }
    }

    /// Has pieces checked that have landed, and gives their slots back.
    fn take_landed(&mut self) -> Result<usize> {
        let mut count = 0;
        for stream in 0..STREAMS {
            let reached = read(self.done(stream));
            while let Some(landing) = self.landing[stream].front() {
                if (reached.wrapping_sub(landing.ticket) as i32) < 0 {
                    break;
                }
                let filled = landing.filled;
                self.landing[stream].pop_front();
                self.finish(filled)?;
                count += 1;
            }
        }
        Ok(count)
    }

    fn finish(&mut self, filled: Filled) -> Result<()> {
        let (piece, source) = (filled.piece, self.source);
        let gap = |part: Part| source.remainder(part, filled.from + part.start - piece.start);
        self.tally
            .add(piece, gap)
            .map_err(|error| error.at(piece.start, piece.end))?;
        if let Source::Files(_) = source {
            self.feed.release(filled.slot);
        }
        self.shared.job.count(piece);
        Ok(())
    }
}

impl Drop for Submitter<'_> {
    fn drop(&mut self) {
        // After an error copies may be in flight: no memory may be freed under them, and workers
        // wait for the feed to be closed after this.
        for stream in self.cuda.copies.iter().chain([&self.cuda.digests]) {
            let _ = stream.synchronize();
        }
    }
}

/// How many slots a lane for reads has: one for each piece that is under way at once.
pub fn slots(source: &Source<'_>, wished: usize) -> usize {
    match source {
        Source::Pinned { .. } => PINNED_AT_ONCE * STREAMS,
        // A word of a slot says what has landed on a stream.
        Source::Files(_) => wished.max(STREAMS),
    }
}
