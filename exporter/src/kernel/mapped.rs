//! Arrays of the kernel program, mapped read-only: reading them needs no system call and no capability.

use std::{
    io,
    marker::PhantomData,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use sched_exporter_ebpf::{CgroupMeta, CgroupRow, CpuEntry, CpuRecord};

/// A value that user space copies out of an entry of an array.
///
/// # Safety
///
/// The type is `repr(C)`, made of integers without padding, a multiple of 8 bytes long, and what each
/// [`Value::Entry`] begins with.
pub unsafe trait Value: Copy {
    /// The entry, as the kernel program declares it.
    type Entry;
}

// SAFETY: all fields are `u64`s, or pairs of `u32`s.
unsafe impl Value for CpuRecord {
    type Entry = CpuEntry;
}

// SAFETY: all fields are `u64`s.
unsafe impl Value for CgroupRow {
    type Entry = Self;
}

// SAFETY: all fields are `u64`s.
unsafe impl Value for CgroupMeta {
    type Entry = Self;
}

const WORD: usize = size_of::<u64>();

/// A mapped array. The mapping keeps the map alive; no descriptor is needed.
pub struct Mapped<T: Value> {
    start: NonNull<AtomicU64>,
    entries: usize,
    bytes: usize,
    values: PhantomData<T>,
}

// SAFETY: the memory is only read, atomically.
unsafe impl<T: Value> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Value> Sync for Mapped<T> {}

impl<T: Value> Mapped<T> {
    /// Maps an array with this number of entries. The kernel must have created it with `BPF_F_MMAPABLE`.
    pub fn new(map: BorrowedFd<'_>, entries: usize) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(WORD)) };
        const { assert!(size_of::<T::Entry>().is_multiple_of(WORD)) };
        let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
        let bytes = size_of::<T::Entry>().checked_mul(entries).ok_or_else(too_large)?;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe {
            let map = map.as_raw_fd();
            libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, map, 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(too_large)?;
        Ok(Self { start, entries, bytes, values: PhantomData })
    }

    /// Copies a value word by word, from its first word to its last; `None` if there is no such entry.
    ///
    /// Nothing that is read later is older than the first word, and nothing that was read earlier is
    /// newer than the last. So if the first word is one that the kernel program writes last, and the last
    /// word one that it writes first, equal words show that no write tore the copy.
    pub fn copy(&self, index: usize) -> Option<T> {
        if index >= self.entries {
            return None;
        }
        let words = size_of::<T>() / WORD;
        let first = index * (size_of::<T::Entry>() / WORD);
        let mut value = MaybeUninit::<T>::uninit();
        let target = value.as_mut_ptr().cast::<u64>();
        for word in 0..words {
            if word + 1 == words {
                fence(Ordering::Acquire);
            }
            // SAFETY: inside the mapping and inside `value`, by the checks above; both are aligned to
            // words, and the kernel program writes whole words.
            unsafe {
                let source = self.start.add(first + word).as_ref();
                target.add(word).write(source.load(Ordering::Relaxed));
            }
            if word == 0 {
                fence(Ordering::Acquire);
            }
        }
        fence(Ordering::Acquire);
        // SAFETY: every word is initialized, and any bytes are a value of integers.
        Some(unsafe { value.assume_init() })
    }
}

impl<T: Value> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Seek as _, Write as _},
        os::fd::AsFd as _,
    };

    use super::*;

    /// Two words at the start of an entry of four.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(C)]
    struct Pair(u64, u64);

    // SAFETY: two `u64`s.
    unsafe impl Value for Pair {
        type Entry = [u64; 4];
    }

    fn file(words: &[u64]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        for word in words {
            file.write_all(&word.to_ne_bytes()).unwrap();
        }
        file
    }

    #[test]
    fn copies_the_beginning_of_each_entry_as_it_is_now() {
        let mut file = file(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let mapped = Mapped::<Pair>::new(file.as_fd(), 2).unwrap();
        let read = || [mapped.copy(0), mapped.copy(1), mapped.copy(2)];
        assert_eq!(read(), [Some(Pair(1, 2)), Some(Pair(5, 6)), None]);
        file.seek(io::SeekFrom::Start(40)).unwrap();
        file.write_all(&9_u64.to_ne_bytes()).unwrap();
        assert_eq!(read(), [Some(Pair(1, 2)), Some(Pair(5, 9)), None]);
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        let directory = File::open("/").unwrap();
        assert!(Mapped::<Pair>::new(directory.as_fd(), 2).is_err());
        assert!(Mapped::<Pair>::new(file(&[]).as_fd(), usize::MAX).is_err());
    }
}
