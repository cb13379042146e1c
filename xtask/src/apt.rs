//! Downloads packages of any Debian release, through apt with private lists: apt's own state on this
//! machine stays the same.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::workspace::{command, output, probe, run, spell};

/// The package lists are updated when they are older than this.
const FRESH: Duration = Duration::from_hours(24);

/// apt, configured for one release and architecture.
pub(crate) struct Apt {
    /// Its directory in [`cache`].
    pub cache: PathBuf,
    options: Vec<String>,
}

impl Apt {
    /// Configures apt and updates its lists of packages.
    pub(crate) fn new(suite: &str, arch: &str) -> Result<Self> {
        Self::of("deb", suite, arch, &format!("{suite}-{arch}"))
    }

    /// Configures apt for source packages.
    pub(crate) fn of_sources(suite: &str, arch: &str) -> Result<Self> {
        Self::of("deb-src", suite, arch, &format!("{suite}-source"))
    }

    fn of(kind: &str, suite: &str, arch: &str, directory: &str) -> Result<Self> {
        let cache = cache()?.join(directory);
        for directory in ["lists/partial", "archives/partial"] {
            let path = cache.join(directory);
            fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        }
        let sources = cache.join("sources.list");
        fs::write(&sources, format!("{kind} {} {suite} main\n", mirror()?))
            .with_context(|| sources.display().to_string())?;
        let at = |name: &str| cache.join(name).display().to_string();
        let options = [
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::Cache={}", cache.display()),
            format!("APT::Architecture={arch}"),
            format!("APT::Architectures={arch}"),
            // As root, apt would otherwise download as a user without write access to the cache.
            "APT::Sandbox::User=root".to_owned(),
            // The lists of releases without updates expire.
            "Acquire::Check-Valid-Until=false".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ];
        let apt = Self { cache, options: options.into() };
        apt.update()?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = command(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    fn update(&self) -> Result<()> {
        let mark = self.cache.join("updated");
        let age = |path: &Path| {
            let written = fs::metadata(path).ok()?.modified().ok()?;
            SystemTime::now().duration_since(written).ok()
        };
        if age(&mark).is_none_or(|age| age > FRESH) {
            run(self.command("apt-get").args(["-qq", "update"]))?;
            fs::write(&mark, "").with_context(|| mark.display().to_string())?;
        }
        Ok(())
    }

    /// The first dependency of a package whose name starts with `prefix`.
    pub(crate) fn dependency(&self, package: &str, prefix: &str) -> Result<Option<String>> {
        let shown = output(self.command("apt-cache").args(["show", "--no-all-versions", package]))?;
        let shown = String::from_utf8(shown).context("apt's description of a package")?;
        let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: "));
        let names = depends.unwrap_or_default().split([',', '|']);
        let mut names = names.filter_map(|depend| depend.split_whitespace().next());
        Ok(names.find(|name| name.starts_with(prefix)).map(str::to_owned))
    }

    /// The version of a package that starts with `prefix`.
    pub(crate) fn version(&self, package: &str, prefix: &str) -> Result<Option<String>> {
        let listed = output(self.command("apt-cache").args(["madison", package]))?;
        let listed = String::from_utf8(listed).context("apt's list of versions")?;
        let mut versions = listed.lines().filter_map(|line| line.split('|').nth(1));
        Ok(versions.find_map(|version| {
            Some(version.trim()).filter(|version| version.starts_with(prefix)).map(str::to_owned)
        }))
    }

    /// Downloads a package into a directory that is removed when dropped.
    pub(crate) fn download(&self, package: &str) -> Result<(TempDir, PathBuf)> {
        self.get(&["download", package], "deb")
    }

    /// Downloads a source package likewise. Returns its description, which names the other files.
    pub(crate) fn download_source(&self, package: &str) -> Result<(TempDir, PathBuf)> {
        self.get(&["source", "--download-only", package], "dsc")
    }

    fn get(&self, what: &[&str], extension: &str) -> Result<(TempDir, PathBuf)> {
        let directory = tempfile::tempdir_in(&self.cache)?;
        run(self.command("apt-get").arg("-qq").args(what).current_dir(&directory))?;
        let mut files = fs::read_dir(&directory)?.filter_map(|entry| Some(entry.ok()?.path()));
        let file = files.find(|path| path.extension().is_some_and(|found| found == extension));
        Ok((directory, file.context("apt downloaded nothing")?))
    }
}

/// Pipes the files of a package into `tar`, which extracts those that it is given. Returns tar's output.
pub(crate) fn unpack(package: &Path, tar: &mut Command) -> Result<Vec<u8>> {
    let mut files = command("dpkg-deb");
    let files = files.arg("--fsys-tarfile").arg(package).stdout(Stdio::piped());
    let mut unpacking = files.spawn().context("`dpkg-deb` is not on PATH")?;
    let pipe = unpacking.stdout.take().context("standard output is piped")?;
    let written = tar.stdin(pipe).output().with_context(|| spell(tar))?;
    unpacking.wait()?;
    Ok(written.stdout)
}

/// The directory for downloads. It is outside the tree, so that a new clone can reuse it.
pub(crate) fn cache() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("sched_exporter"))
}

/// The URL of the Debian mirror: `XTASK_DEBIAN_MIRROR`, or the mirror that this machine uses.
pub(crate) fn mirror() -> Result<String> {
    if let Ok(mirror) = env::var("XTASK_DEBIAN_MIRROR") {
        return Ok(mirror);
    }
    let format = "$(LABEL) $(REPO_URI)";
    let targets = probe(command("apt-get").args(["indextargets", "--format", format]));
    let targets = targets.unwrap_or_default();
    let mut mirrors = targets.lines().filter_map(|line| line.strip_prefix("Debian "));
    mirrors.next().map(str::to_owned).context(
        "apt has no Debian mirror on this machine; run `apt-get update` on Debian, or set \
         XTASK_DEBIAN_MIRROR",
    )
}
