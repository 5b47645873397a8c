//! Which ways bytes took, for the report.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes moved each way.
#[derive(Default)]
pub struct Moved {
    /// Through the page cache.
    pub buffered: AtomicU64,
    /// Around the page cache, by plain system calls.
    pub direct: AtomicU64,
    /// Around the page cache, through io_uring.
    pub ring: AtomicU64,
}

impl Moved {
    /// The ways that were really taken.
    pub fn route(&self) -> String {
        Moved::joint_route(&[self])
    }

    /// The ways that were really taken in any of several files.
    pub fn joint_route(all: &[&Moved]) -> String {
        type Way = (&'static str, fn(&Moved) -> &AtomicU64);
        let ways: [Way; 3] = [
            ("io_uring", |moved| &moved.ring),
            ("direct", |moved| &moved.direct),
            ("buffered", |moved| &moved.buffered),
        ];
        let is_taken = |(_, nbytes): &Way| all.iter().any(|moved| nbytes(moved).load(Relaxed) > 0);
        let taken = ways.into_iter().filter(is_taken);
        let names: Vec<_> = taken.map(|(name, _)| name).collect();
        if names.is_empty() {
            "buffered".to_string()
        } else {
            names.join("+")
        }
    }
}
