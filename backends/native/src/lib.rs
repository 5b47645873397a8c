//! The native backend of thaw: moves the bytes of a plan between files and memory.
//!
//! It knows nothing of headers, names or tensors. Everything it is given was checked by its caller,
//! `thaw_native/backend.py`; what it takes from a file are bytes, never numbers.

mod control;
mod crc;
mod cuda;
mod cursor;
mod device;
mod error;
mod feed;
mod file;
mod host;
mod job;
mod ledger;
mod line;
mod memory;
mod plan;
mod pool;
mod python;
mod queueing;
mod residency;
mod ring;
mod settings;
mod source;
mod submit;
mod tally;

pub use python::_native;
