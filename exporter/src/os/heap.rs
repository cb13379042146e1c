//! The heap of this process.

/// Makes all threads allocate from one heap, which [`trim`] can give back whole. By default glibc gives each
/// thread a heap of its own, and keeps the free memory at its end. Call it before any thread is started.
/// <https://man7.org/linux/man-pages/man3/mallopt.3.html>, `M_ARENA_MAX`.
pub fn share() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a parameter of glibc's malloc.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives free memory of the heap back to the kernel. It takes a millisecond or so for tens of megabytes.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: glibc's malloc_trim takes glibc's locks itself.
    unsafe {
        libc::malloc_trim(0);
    }
}
