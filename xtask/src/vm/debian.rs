//! Debian's own kernels.

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
    /// As it names itself.
    pub release: String,
    /// What boots.
    pub image: PathBuf,
}

/// The current kernel of a guest's release, downloaded where the cache hasn't it.
pub(crate) fn kernel(guest: &Guest) -> Result<Kernel> {
    let apt = Apt::new(guest.suite, guest.arch.debian())?;
    // The package that everybody installs depends on the kernel's; that, since Linux 7.0, on one
    // that holds the image.
    let image = apt.dependency(guest.package, "linux-image-")?.with_context(|| {
        format!("{} has no package `{}` that depends on a kernel", guest.suite, guest.package)
    })?;
    let holder = apt.dependency(&image, "linux-binary-")?.unwrap_or_else(|| image.clone());
    let path = apt.cache.join(format!("{holder}.vmlinuz"));
    if !path.exists() {
        download(&apt, &holder, &path)?;
    }
    let release = image.trim_start_matches("linux-image-").to_owned();
    Ok(Kernel { release, image: path })
}

/// Takes the image out of a package.
fn download(apt: &Apt, package: &str, image: &Path) -> Result<()> {
    eprintln!("downloading {package}");
    let (directory, file) = apt.download(package)?;
    let mut tar = command("tar");
    tar.args(["--extract", "--to-stdout", "--wildcards"]);
    tar.args(["./boot/vmlinuz-*", "./usr/lib/modules/*/vmlinuz"]);
    // A package has one of the two; tar complains about the other.
    let found = apt::unpack(&file, tar.stderr(Stdio::null()))?;
    if found.is_empty() {
        bail!("package {package} has no kernel image");
    }
    let partial = directory.path().join("vmlinuz");
    fs::write(&partial, found)?;
    fs::rename(&partial, image).with_context(|| image.display().to_string())
}
