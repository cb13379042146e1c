//! The BPF programs of a process and their maps, as the kernel reports them. They are found by number, since
//! the exporter keeps only the descriptors that it still needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result};
use aya::{
    maps::MapData,
    programs::{ProgramInfo, loaded_programs},
};

use crate::fdinfo::{self, Info};

/// The programs of a process (`self` or a PID): those that it holds itself, and those of its links.
pub fn programs(process: &str) -> Result<Vec<ProgramInfo>> {
    let ids = fdinfo::of(process, "prog_id")?;
    let ids: BTreeSet<_> = ids.iter().map(|info| info["prog_id"].as_str()).collect();
    // Other programs may end in between.
    let programs = loaded_programs().filter_map(Result::ok);
    Ok(programs.filter(|program| ids.contains(program.id().to_string().as_str())).collect())
}

/// The maps of a process's programs, by number, with their names as the field `name`.
pub fn maps(process: &str) -> Result<BTreeMap<u32, Info>> {
    let mut maps = BTreeMap::new();
    for program in programs(process)? {
        for id in program.map_ids()?.context("this kernel does not report a program's maps")? {
            let map = MapData::from_id(id)?;
            let mut info = fdinfo::read("self", map.fd().as_fd().as_raw_fd())?;
            let name = map.info()?.name_as_str().unwrap_or_default().to_owned();
            info.insert("name".to_owned(), name);
            maps.insert(id, info);
        }
    }
    Ok(maps)
}
