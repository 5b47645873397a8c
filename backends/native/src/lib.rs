//! The native backend of thaw: moves the bytes of a plan between files and memory.
//!
//! It knows nothing of headers, names or tensors. Everything it is given was checked by its caller,
//! `thaw_native/backend.py`; what it takes from a file are bytes, never numbers.

mod cuda;
mod device;
mod error;
mod host;
mod io;
mod job;
mod memory;
mod python;
mod settings;

pub use python::_native;
