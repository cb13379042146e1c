//! The program's own code in memory.

use std::fs;

/// Gives up the pages of this program's code, of which most was needed only to start. What is used is mapped
/// again from the page cache. Without this, it counts as resident memory as long as the process lives. Returns how
/// many bytes the code has; 0 if it was not found.
///
/// <https://man7.org/linux/man-pages/man2/madvise.2.html>
pub fn give_up() -> usize {
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else { return 0 };
    let Some((start, end)) = code(&maps, give_up as *const () as usize) else { return 0 };
    // SAFETY: the mapping is private and cannot be written, so its pages are those of the file, which the kernel
    // lets nobody write to while it is executed.
    let given_up =
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    if given_up == 0 { end - start } else { 0 }
}

/// Finds the mapping of code that contains an address, in the text of `/proc/PID/maps`.
fn code(maps: &str, address: usize) -> Option<(usize, usize)> {
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let [start, end] = [start, end].map(|it| usize::from_str_radix(it, 16).ok());
        let is_it = rest.starts_with("r-xp ") && (start?..end?).contains(&address);
        is_it.then_some((start?, end?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_found() {
        let maps = "1000-3000 r--p 00000000 08:01 42 /bin/a\n3000-8000 r-xp 00002000 08:01 42 /bin/a\n\
                    8000-9000 rw-p 00007000 08:01 42 /bin/a\n";
        assert_eq!(code(maps, 0x3000), Some((0x3000, 0x8000)));
        assert_eq!(code(maps, 0x7fff), Some((0x3000, 0x8000)));
        for other in [0x1000, 0x8000, 0x9000] {
            assert_eq!(code(maps, other), None);
        }
    }

    #[test]
    fn code_that_was_given_up_still_runs() {
        assert!(give_up() > 0);
        assert_eq!(code("", 0), None);
    }
}
