//! Workers that share a list of pieces, and the thread that waits for them.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Duration;

use pyo3::prelude::*;

use crate::error::{Error, Result};
use crate::job::plan::Piece;

/// How often signals are looked at and progress is told.
const TICK: Duration = Duration::from_millis(50);

pub struct Control {
    pieces: Vec<Piece>,
    next: AtomicUsize,
    stop: AtomicBool,
    moved_nbytes: AtomicU64,
    error: Mutex<Option<Error>>,
    running: Mutex<usize>,
    ended: Condvar,
}

impl Control {
    pub fn new(pieces: Vec<Piece>) -> Control {
        Control {
            next: AtomicUsize::new(0),
            pieces,
            stop: AtomicBool::new(false),
            moved_nbytes: AtomicU64::new(0),
            error: Mutex::new(None),
            running: Mutex::new(0),
            ended: Condvar::new(),
        }
    }

    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The next piece that nobody has taken; `None` at the end, or when the transfer is stopped.
    pub fn take(&self) -> Option<Piece> {
        if self.stop.load(Relaxed) {
            return None;
        }
        self.pieces.get(self.next.fetch_add(1, Relaxed)).copied()
    }

    /// Whether there is no use in going on.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Counts bytes that belong to extents.
    pub fn count(&self, nbytes: u64) {
        self.moved_nbytes.fetch_add(nbytes, Relaxed);
    }

    /// Runs workers until all have ended; the first error stops them, and so does a signal.
    ///
    /// # Errors
    /// What a signal handler or the progress callback raised.
    pub fn run<W>(
        &self,
        py: Python<'_>,
        workers: usize,
        progress: Option<&Py<PyAny>>,
        work: W,
    ) -> PyResult<Result<()>>
    where
        W: Fn(usize) -> Result<()> + Sync,
    {
        *self.running.lock().unwrap() = workers;
        py.detach(|| {
            thread::scope(|scope| {
                for index in 0..workers {
                    let work = &work;
                    let started = thread::Builder::new().spawn_scoped(scope, move || {
                        let _ending = Ending(self);
                        if let Err(error) = work(index) {
                            self.fail(error);
                        }
                    });
                    if let Err(error) = started {
                        self.fail(Error::system("starting a thread", error));
                        *self.running.lock().unwrap() -= workers - index;
                        break;
                    }
                }
                self.wait(progress)
            })
        })?;
        Ok(match self.error.lock().unwrap().take() {
            Some(error) => Err(error),
            None => Ok(()),
        })
    }

    fn wait(&self, progress: Option<&Py<PyAny>>) -> PyResult<()> {
        let mut told = 0;
        loop {
            let running = self.running.lock().unwrap();
            let (running, _) = self
                .ended
                .wait_timeout_while(running, TICK, |n| *n > 0)
                .unwrap();
            let over = *running == 0;
            drop(running);
            let seen = Python::attach(|py| {
                py.check_signals()?;
                let moved = self.moved_nbytes.load(Relaxed);
                if let Some(progress) = progress
                    && moved > told
                {
                    progress.call1(py, (moved - told,))?;
                    told = moved;
                }
                Ok(())
            });
            if seen.is_err() {
                self.stop.store(true, Relaxed);
            }
            if over || seen.is_err() {
                return seen;
            }
        }
    }

    /// Keeps the error that lies first in the file.
    fn fail(&self, error: Error) {
        self.stop.store(true, Relaxed);
        let mut first = self.error.lock().unwrap();
        if first
            .as_ref()
            .is_none_or(|before| error.offset() < before.offset())
        {
            *first = Some(error);
        }
    }
}

/// Says that a worker has ended, however it did.
struct Ending<'a>(&'a Control);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop.store(true, Relaxed);
        }
        *self.0.running.lock().unwrap() -= 1;
        self.0.ended.notify_all();
    }
}
