//! `/proc/PID/fdinfo`: what the kernel reports about file descriptors.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};

/// The fields of one descriptor.
pub type Info = BTreeMap<String, String>;

/// The descriptors of a process (`self` or a PID) that have the field `key`.
pub fn of(process: &str, key: &str) -> Result<Vec<Info>> {
    let directory = format!("/proc/{process}/fdinfo");
    let mut found = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| directory.clone())? {
        // The descriptor that listed the directory is closed by now.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        let info: Info =
            pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        if info.contains_key(key) {
            found.push(info);
        }
    }
    Ok(found)
}
