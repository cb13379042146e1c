//! Debian's own kernels, through apt with lists of its own: nothing of this machine's is changed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};

use crate::{
    vm::guests::Guest,
    workspace::{command, output, probe, run, spell},
};

/// A kernel on disk.
pub(crate) struct Kernel {
    /// As it names itself.
    pub release: String,
    /// What boots.
    pub image: PathBuf,
}

/// How long lists of packages are taken as they are.
const FRESH: Duration = Duration::from_hours(24);

/// The current kernel of a guest's release, downloaded where the cache hasn't it.
pub(crate) fn kernel(guest: &Guest) -> Result<Kernel> {
    let apt = Apt::new(guest)?;
    apt.update()?;
    // The package that everybody installs depends on the kernel's; that, since Linux 7.0, on one
    // that holds the image.
    let image = apt.dependency(guest.package, "linux-image-")?.with_context(|| {
        format!("{} has no package `{}` that depends on a kernel", guest.suite, guest.package)
    })?;
    let holder = apt.dependency(&image, "linux-binary-")?.unwrap_or_else(|| image.clone());
    let path = apt.cache.join(format!("{holder}.vmlinuz"));
    if !path.exists() {
        apt.download(&holder, &path)?;
    }
    let release = image.trim_start_matches("linux-image-").to_owned();
    Ok(Kernel { release, image: path })
}

/// apt, as a machine of the guest's release and architecture would have it.
struct Apt {
    cache: PathBuf,
    options: Vec<String>,
}

impl Apt {
    fn new(guest: &Guest) -> Result<Self> {
        let (suite, arch) = (guest.suite, guest.arch.debian());
        let cache = cache()?.join(format!("{suite}-{arch}"));
        for directory in ["lists/partial", "archives/partial"] {
            let path = cache.join(directory);
            fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        }
        let sources = cache.join("sources.list");
        fs::write(&sources, format!("deb {} {suite} main\n", mirror()?))
            .with_context(|| sources.display().to_string())?;
        let at = |name: &str| cache.join(name).display().to_string();
        let options = [
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::Cache={}", cache.display()),
            format!("APT::Architecture={arch}"),
            format!("APT::Architectures={arch}"),
            // As root, apt would download as a user who may not write here.
            "APT::Sandbox::User=root".to_owned(),
            // Lists of releases that are no longer updated grow old.
            "Acquire::Check-Valid-Until=false".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ];
        Ok(Self { cache, options: options.into() })
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

    /// The package of this beginning that a package depends on.
    fn dependency(&self, package: &str, beginning: &str) -> Result<Option<String>> {
        let shown = output(self.command("apt-cache").args(["show", "--no-all-versions", package]))?;
        let shown = String::from_utf8(shown).context("apt's description of a package")?;
        let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: "));
        let names = depends.unwrap_or_default().split([',', '|']);
        let mut names = names.filter_map(|depend| depend.split_whitespace().next());
        Ok(names.find(|name| name.starts_with(beginning)).map(str::to_owned))
    }

    /// Takes the image out of a package.
    fn download(&self, package: &str, image: &Path) -> Result<()> {
        eprintln!("downloading {package}");
        let directory = tempfile::tempdir_in(&self.cache)?;
        let mut download = self.command("apt-get");
        run(download.args(["-qq", "download", package]).current_dir(&directory))?;
        let file = fs::read_dir(&directory)?.next().context("apt downloaded nothing")??.path();
        let mut unpack = command("dpkg-deb");
        let mut unpack = unpack.arg("--fsys-tarfile").arg(file).stdout(Stdio::piped()).spawn()?;
        let pipe = unpack.stdout.take().context("standard output was asked for")?;
        let mut extract = command("tar");
        extract.args(["--extract", "--to-stdout", "--wildcards"]);
        extract.args(["./boot/vmlinuz-*", "./usr/lib/modules/*/vmlinuz"]).stdin(pipe);
        // One of the two is not there, of which tar complains.
        let found = extract.stderr(Stdio::null()).output().with_context(|| spell(&extract))?;
        unpack.wait()?;
        if found.stdout.is_empty() {
            bail!("package {package} has no kernel image");
        }
        let partial = directory.path().join("vmlinuz");
        fs::write(&partial, found.stdout)?;
        fs::rename(&partial, image).with_context(|| image.display().to_string())
    }
}

/// A directory outside of the tree, so that a new clone downloads nothing again.
fn cache() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("sched_exporter/vm"))
}

/// Debian's mirror: the one that is named, or the one that this machine uses.
fn mirror() -> Result<String> {
    if let Ok(mirror) = env::var("XTASK_DEBIAN_MIRROR") {
        return Ok(mirror);
    }
    let format = "$(LABEL) $(REPO_URI)";
    let targets = probe(command("apt-get").args(["indextargets", "--format", format]));
    let targets = targets.unwrap_or_default();
    let mut mirrors = targets.lines().filter_map(|line| line.strip_prefix("Debian "));
    mirrors.next().map(str::to_owned).context(
        "this machine's apt knows no mirror of Debian; run `apt-get update` on Debian, \
         or name one in XTASK_DEBIAN_MIRROR",
    )
}
