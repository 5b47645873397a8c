//! How a transfer is to be made.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::io::file::Io;
use crate::memory::PAGE_NBYTES;

#[pyclass(frozen, from_py_object)]
#[derive(Clone, Copy)]
pub struct Settings {
    pub threads: usize,
    pub piece_nbytes: u64,
    pub share_nbytes: u64,
    pub slots: usize,
    pub io: Io,
    pub digests_on_device: bool,
}

#[pymethods]
impl Settings {
    #[new]
    fn new(
        threads: usize,
        piece_nbytes: u64,
        share_nbytes: u64,
        slots: usize,
        io: &str,
        digests_on_device: bool,
    ) -> PyResult<Settings> {
        let wrong = |what: &str| Err(PyValueError::new_err(what.to_string()));
        if threads == 0 || slots == 0 {
            return wrong("threads and slots are at least 1");
        }
        let wrong_size =
            |nbytes: u64| !nbytes.is_power_of_two() || !(PAGE_NBYTES..=1 << 30).contains(&nbytes);
        if wrong_size(piece_nbytes) || wrong_size(share_nbytes) {
            return wrong("piece_nbytes and share_nbytes are powers of two from 4096 to 2^30");
        }
        let io = match io {
            "auto" => Io::Auto,
            "buffered" => Io::Buffered,
            "direct" => Io::Direct,
            _ => return wrong("io is 'auto', 'buffered' or 'direct'"),
        };
        Ok(Settings {
            threads,
            piece_nbytes,
            share_nbytes: share_nbytes.min(piece_nbytes),
            slots,
            io,
            digests_on_device,
        })
    }
}
