//! Downloads Debian's kernels.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail};

use crate::{
    apt::{self, Apt},
    vm::guests::Guest,
    workspace::command,
};

/// A kernel on disk.
pub(crate) struct Kernel {
    /// Its release, as `uname -r` prints it.
    pub release: String,
    /// The file that QEMU boots.
    pub image: PathBuf,
}

/// The current kernel of a guest's Debian release, from the cache or downloaded.
pub(crate) fn kernel(guest: &Guest) -> Result<Kernel> {
    let apt = Apt::new(guest.suite, guest.arch.debian())?;
    // The package that users install depends on the kernel's package. Since Linux 7.0, that depends on
    // another, which holds the image.
    let image = apt.dependency(guest.package, "linux-image-")?.with_context(|| {
        format!("{} lacks a package `{}` that depends on a kernel", guest.suite, guest.package)
    })?;
    let holder = apt.dependency(&image, "linux-binary-")?.unwrap_or_else(|| image.clone());
    let path = apt.cache.join(format!("{holder}.vmlinuz"));
    if !path.exists() {
        download(&apt, &holder, &path)?;
    }
    let release = image.trim_start_matches("linux-image-").to_owned();
    Ok(Kernel { release, image: path })
}

/// Downloads a package and extracts its image.
fn download(apt: &Apt, package: &str, image: &Path) -> Result<()> {
    eprintln!("downloading {package}");
    let (directory, file) = apt.download(package)?;
    let mut tar = command("tar");
    tar.args(["--extract", "--to-stdout", "--wildcards"]);
    tar.args(["./boot/vmlinuz-*", "./usr/lib/modules/*/vmlinuz"]);
    // A package has one of the two; tar complains about the other.
    let found = apt::unpack(&file, tar.stderr(Stdio::null()))?;
    if found.is_empty() {
        bail!("package {package} lacks a kernel image");
    }
    let partial = directory.path().join("vmlinuz");
    fs::write(&partial, found)?;
    fs::rename(&partial, image).with_context(|| image.display().to_string())
}
