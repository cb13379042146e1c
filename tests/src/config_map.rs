//! A directory as kubelet mounts a ConfigMap: all its files change at once.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

/// The directory; removed when dropped.
#[derive(Debug)]
pub struct ConfigMap(TempDir);

impl ConfigMap {
    /// Creates it with one file, `exporter.yaml`.
    pub fn new(yaml: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let map = Self(directory);
        map.swap(yaml);
        symlink("..data/exporter.yaml", map.file()).unwrap();
        map
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Path of the file.
    pub fn file(&self) -> PathBuf {
        self.path().join("exporter.yaml")
    }

    /// Replaces the file as kubelet does: writes a new directory, renames a link to it over the
    /// link to the old one, and removes the old one.
    pub fn swap(&self, yaml: &str) {
        let new = tempfile::Builder::new().prefix("..").tempdir_in(self.path()).unwrap().keep();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(new.join("exporter.yaml"), yaml).unwrap();
        let (link, data) = (self.path().join("..data_tmp"), self.path().join("..data"));
        let old = fs::read_link(&data).ok();
        symlink(new.file_name().unwrap(), &link).unwrap();
        fs::rename(link, data).unwrap();
        if let Some(old) = old {
            fs::remove_dir_all(self.path().join(old)).unwrap();
        }
    }
}
