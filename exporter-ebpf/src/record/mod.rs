//! Records: the values of the kernel program's maps, one module for each kind.

pub(crate) mod cpu;
pub(crate) mod wait;
