//! Lists of parts, as the system calls for scattered memory take them.

use std::ffi::c_void;

use crate::job::plan::Part;

const MAX_IOVECS: usize = 1024;

/// What is left of a list of parts, as the system calls for scattered memory take it.
pub struct Cursor {
    vectors: Vec<libc::iovec>,
    first: usize,
    at: u64,
}

impl Cursor {
    pub fn new(parts: &[Part]) -> Cursor {
        let vector = |part: &Part| libc::iovec {
            iov_base: part.address.expect("every part has memory") as *mut c_void,
            iov_len: part.nbytes as usize,
        };
        Cursor {
            vectors: parts.iter().map(vector).collect(),
            first: 0,
            at: parts.first().map_or(0, |part| part.start),
        }
    }

    pub fn next(&self) -> Option<(u64, &[libc::iovec])> {
        let left = &self.vectors[self.first..];
        (!left.is_empty()).then(|| (self.at, &left[..left.len().min(MAX_IOVECS)]))
    }

    pub fn left(&self) -> u64 {
        self.vectors[self.first..]
            .iter()
            .map(|vector| vector.iov_len as u64)
            .sum()
    }

    pub fn advance(&mut self, done: u64) {
        self.at += done;
        let mut done = done as usize;
        while let Some(vector) = self.vectors.get_mut(self.first) {
            if done < vector.iov_len {
                vector.iov_base = vector.iov_base.wrapping_byte_add(done);
                vector.iov_len -= done;
                return;
            }
            done -= vector.iov_len;
            self.first += 1;
        }
    }
}
