//! Lanes of bounce memory, kept for the life of the process: page-locking memory is dear.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::cuda::Device;
use crate::error::Result;
use crate::memory::lane::{Lane, Shape};

/// The most that all lanes together take.
pub const MAX_NBYTES: u64 = 384 << 20;

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
    use crate::memory::PAGE_NBYTES;

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
