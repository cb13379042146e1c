//! Reads from the cgroup filesystem which cgroups exist, how they are named, and their CPU quotas. May
//! name no other room.
//!
//! A cgroup is known by its id: the inode number of its directory, which the kernel never reuses within a
//! hierarchy. <https://github.com/torvalds/linux/blob/v6.12/fs/kernfs/dir.c>, `__kernfs_new_node`.

pub mod hierarchy;
pub mod names;
pub mod paths;
