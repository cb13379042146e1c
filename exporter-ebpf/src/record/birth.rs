//! What the kernel program sends about a cgroup that is created or renamed.

/// Bytes of the longest path, with its final zero. Containers in nodes that are containers have paths of up
/// to about 320 bytes.
pub const BIRTH_PATH: usize = 432;

/// Bytes of the ring buffer of births: room for some 300 paths of pods, or 700 of units.
pub const BIRTHS_BYTES: u32 = 64 * 1024;

/// A cgroup of the hierarchy that is accounted for, which was created or renamed.
///
/// A record in the ring buffer ends with the final zero of the path, or, if the path is too long, before the
/// path.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CgroupBirth {
    /// Number of its directory, as in [`CgroupMeta::id`](super::cgroup::CgroupMeta::id).
    pub id: u64,
    /// [`CgroupBirth::CREATED`] or [`CgroupBirth::RENAMED`].
    pub event: u64,
    /// The path from the root of the hierarchy, the same in every namespace.
    pub path: [u8; BIRTH_PATH],
}

impl CgroupBirth {
    /// The cgroup is new, and no task has been in it yet.
    pub const CREATED: u64 = 0;
    /// The cgroup has another path now.
    pub const RENAMED: u64 = 1;
    /// Bytes before the path.
    pub const HEADER: usize = size_of::<Self>() - BIRTH_PATH;
}
