//! The filesystem of the guests.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use cpio::newc::{Builder, ModeFileType, trailer};

/// Writes an archive with a console and these files at its root, all executable.
pub(crate) fn write(path: &Path, files: &[(&str, PathBuf)]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut archive = BufWriter::new(File::create(path)?);
    let directory = Builder::new("dev").mode(0o755).set_mode_file_type(ModeFileType::Directory);
    archive = directory.write(archive, 0).finish()?;
    // The kernel opens it for the first process, before that process can mount anything.
    let console = Builder::new("dev/console").mode(0o600).rdev_major(5).rdev_minor(1);
    let console = console.set_mode_file_type(ModeFileType::Char);
    archive = console.write(archive, 0).finish()?;
    for (name, file) in files {
        let bytes = fs::read(file)?;
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let entry = Builder::new(name).mode(0o755).set_mode_file_type(ModeFileType::Regular);
        let mut entry = entry.write(archive, length);
        entry.write_all(&bytes)?;
        archive = entry.finish()?;
    }
    trailer(archive)?.flush()
}
