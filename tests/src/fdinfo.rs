//! `/proc/PID/fdinfo`: what the kernel reports about file descriptors.

use std::{collections::BTreeMap, fs, os::fd::RawFd, path::Path};

use anyhow::{Context as _, Result};

/// The fields of one descriptor.
pub type Info = BTreeMap<String, String>;

/// The descriptors of a process (`self` or a PID) that have the field `key`.
pub fn of(process: &str, key: &str) -> Result<Vec<Info>> {
    let directory = format!("/proc/{process}/fdinfo");
    let mut found = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| directory.clone())? {
        // The descriptor that listed the directory is closed by now.
        let Ok(info) = parse(&entry?.path()) else { continue };
        if info.contains_key(key) {
            found.push(info);
        }
    }
    Ok(found)
}

/// A descriptor of a process.
pub fn read(process: &str, fd: RawFd) -> Result<Info> {
    parse(Path::new(&format!("/proc/{process}/fdinfo/{fd}")))
}

fn parse(path: &Path) -> Result<Info> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}
