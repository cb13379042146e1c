//! What the kernel says of the descriptors of a process.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};

/// What it says of one.
pub type Info = BTreeMap<String, String>;

/// The descriptors of a process (`self` or a number) of which the kernel says `key`.
pub fn of(process: &str, key: &str) -> Result<Vec<Info>> {
    let directory = format!("/proc/{process}/fdinfo");
    let mut found = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| directory.clone())? {
        // The descriptor of the directory itself is gone.
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
