//! The native backend of thaw: moves the bytes of a plan between files and memory.
//!
//! It knows nothing of headers, names or tensors. Everything it is given was checked by its caller,
//! `thaw_native/backend.py`; what it takes from a file are bytes, never numbers.
//!
//! Rooms, each of which uses only those before it:
//! - `cuda`: the driver and what a transfer needs of it
//! - `memory`: pages, lanes of bounce memory and the pool of them
//! - `job`: what is to be moved, who takes which piece, and what becomes of digests
//! - `io`: files, through the page cache and around it
//! - `settings`, `request`: what is asked of a transfer, checked
//! - `host`, `device`: what the workers of a transfer do, by where the memory is
//! - `python`: what Python sees

mod cuda;
mod device;
mod error;
mod host;
mod io;
mod job;
mod memory;
mod python;
mod request;
mod settings;

pub use python::_native;
