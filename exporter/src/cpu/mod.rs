//! Reads from sysfs which CPUs this machine has and how they are arranged. May name no other room.

pub mod list;
pub mod topology;
