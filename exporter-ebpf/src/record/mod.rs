//! Records: the values of the kernel program's maps, one module for each kind, and their counters.

pub(crate) mod birth;
pub(crate) mod cgroup;
pub(crate) mod counters;
pub(crate) mod cpu;
pub(crate) mod wait;
