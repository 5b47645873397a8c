//! Files: how bytes go between them and host memory.

pub mod file;
mod moved;
mod reopen;
mod residency;
mod ring;
pub mod source;
