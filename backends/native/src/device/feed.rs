//! Reading to a device: workers fill bounce memory, and one thread alone talks to the driver.
//!
//! The device wants large copies, since it pauses between any two; the workers want small reads,
//! whose bytes are still in the processor's cache when the device fetches them. So the workers fill
//! a piece together, share by share. The driver takes one call at a time: threads that all call
//! it wait for each other while they could read.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize, Ordering::AcqRel, Ordering::Acquire, Ordering::Release,
};

use crate::device::queueing::Pause;
use crate::error::Result;
use crate::io::source::Files;
use crate::job::Job;
use crate::job::plan::{Piece, blocks};
use crate::memory::PAGE_NBYTES;
use crate::memory::lane::Lane;

/// A piece in page-locked memory, ready for the device.
#[derive(Clone, Copy)]
pub struct Filled {
    pub piece: Piece,
    pub from: u64,
    pub slot: usize,
}

/// What one worker reads of a piece at once.
struct Share {
    /// Which bytes of the file.
    span: Piece,
    cold: bool,
    whole: Filled,
}

impl Share {
    fn address(&self) -> u64 {
        self.whole.from + self.span.start - self.whole.piece.start
    }
}

/// A piece whose shares are being handed out.
struct Open {
    whole: Filled,
    cold: bool,
    shares: VecDeque<Piece>,
}

#[derive(Default)]
struct State {
    /// Where the slots are; none until there is bounce memory.
    slots: Vec<u64>,
    /// The one used last is used next: its memory is the likeliest to be in the cache.
    free: Vec<usize>,
    open: Option<Open>,
    /// There is no piece left to be opened.
    exhausted: bool,
    /// Nothing is taken any more.
    closed: bool,
}

/// Where workers find shares, and put what they filled.
pub struct Feed<'a> {
    job: &'a Job<'a>,
    /// How much of a piece one worker reads at once; also what a digest on the host is made of.
    share_nbytes: u64,
    state: Mutex<State>,
    /// Whether there was no share and no slot to be had; looked at without the lock.
    dry: AtomicBool,
    /// How many bytes of each slot's piece are still to be read.
    missing: Vec<AtomicU64>,
    filled: Mutex<VecDeque<Filled>>,
    /// How many pieces were opened and are not filled.
    unfilled: AtomicUsize,
    /// How many shares are being read.
    reading: AtomicUsize,
}

/// Says, when dropped, that nothing is taken any more, and waits until no slot is written to.
pub struct Closing<'a>(pub &'a Feed<'a>);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().closed = true;
        self.0.dry.store(false, Release);
        let mut pause = Pause::new();
        while self.0.reading.load(Acquire) > 0 {
            pause.once();
        }
    }
}

struct Reading<'a>(&'a AtomicUsize);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, AcqRel);
    }
}

impl<'a> Feed<'a> {
    /// A feed of so many slots; nothing is ever put into one without.
    pub fn new(job: &'a Job<'a>, share_nbytes: u64, slots: usize) -> Feed<'a> {
        let exhausted = slots == 0;
        Feed {
            job,
            share_nbytes,
            state: Mutex::new(State {
                exhausted,
                ..State::default()
            }),
            dry: AtomicBool::new(true),
            missing: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            filled: Mutex::new(VecDeque::new()),
            unfilled: AtomicUsize::new(0),
            reading: AtomicUsize::new(0),
        }
    }

    /// How many workers have something to do.
    pub fn shares(&self) -> usize {
        let pieces = self.job.control.pieces().iter();
        pieces
            .map(|piece| piece.nbytes().div_ceil(self.share_nbytes) as usize)
            .sum()
    }

    /// Lets workers fill the slots of a lane, which must outlive the feed's `Closing`.
    pub fn open(&self, lane: &Lane) {
        let mut state = self.state.lock().unwrap();
        let slots = 0..self.missing.len();
        state.slots = slots.clone().map(|slot| lane.slot(slot).host).collect();
        state.free = slots.rev().collect();
        self.dry.store(false, Release);
    }

    /// Takes the next piece that was filled.
    pub fn take(&self) -> Option<Filled> {
        self.filled.lock().unwrap().pop_front()
    }

    /// Whether workers may still fill something.
    pub fn is_open(&self) -> bool {
        // In this order: a piece is counted before it is the last.
        !self.state.lock().unwrap().exhausted || self.unfilled.load(Acquire) > 0
    }

    /// Gives a slot back.
    pub fn release(&self, slot: usize) {
        self.state.lock().unwrap().free.push(slot);
        self.dry.store(false, Release);
    }

    /// Reads shares until none is left.
    pub fn fill(&self, files: &Files<'_>, digests_on_host: bool) -> Result<()> {
        while let Some(share) = self.next_share(files) {
            let _reading = Reading(&self.reading);
            let (address, file) = (share.address(), files.at(share.span.start));
            // SAFETY: a slot has room for a piece and two pages, and a share is one worker's.
            unsafe {
                file.read(address, share.span.start, share.span.end, share.cold)?;
                if digests_on_host {
                    self.record(share.span, address)?;
                }
            }
            self.finish(&share);
        }
        Ok(())
    }

    /// # Safety
    /// The bytes of the span must be at `address`.
    unsafe fn record(&self, span: Piece, address: u64) -> Result<()> {
        for block in blocks(span, self.job.plan.origin(), self.share_nbytes) {
            let from = address + block.start - span.start;
            // SAFETY: the caller vouches for the bytes.
            unsafe { self.job.record_together(block, from)? };
        }
        Ok(())
    }

    fn finish(&self, share: &Share) {
        let (whole, nbytes) = (share.whole, share.span.nbytes());
        if self.missing[whole.slot].fetch_sub(nbytes, AcqRel) == nbytes {
            self.filled.lock().unwrap().push_back(whole);
            self.unfilled.fetch_sub(1, AcqRel);
        }
    }

    /// Takes a share, once there is room for it; `None` if there is nothing left to be read.
    fn next_share(&self, files: &Files<'_>) -> Option<Share> {
        let mut pause = Pause::new();
        loop {
            if self.dry.load(Acquire) {
                pause.once();
                continue;
            }
            let mut state = self.state.lock().unwrap();
            if state.closed {
                return None;
            }
            if let Some(share) = self.cut(&mut state) {
                return Some(share);
            }
            if state.exhausted {
                return None;
            }
            match state.free.pop() {
                Some(slot) => self.open_piece(&mut state, slot, files),
                // Under the lock: a slot that is given back after this makes it false.
                None => self.dry.store(true, Release),
            }
        }
    }

    fn cut(&self, state: &mut State) -> Option<Share> {
        let open = state.open.as_mut()?;
        let Some(span) = open.shares.pop_front() else {
            state.open = None;
            return None;
        };
        self.reading.fetch_add(1, AcqRel);
        let (whole, cold) = (open.whole, open.cold);
        Some(Share { span, cold, whole })
    }

    fn open_piece(&self, state: &mut State, slot: usize, files: &Files<'_>) {
        let Some(piece) = self.job.control.take() else {
            state.exhausted = true;
            return;
        };
        let cold = files.at(piece.start).is_cold(piece.start, piece.end);
        // Storage is the faster, the more is asked of it at once.
        let nbytes = if cold { u64::MAX } else { self.share_nbytes };
        let from = state.slots[slot] + piece.start % PAGE_NBYTES;
        self.missing[slot].store(piece.nbytes(), Release);
        self.unfilled.fetch_add(1, AcqRel);
        state.open = Some(Open {
            whole: Filled { piece, from, slot },
            cold,
            shares: blocks(piece, self.job.plan.origin(), nbytes).collect(),
        });
    }
}
