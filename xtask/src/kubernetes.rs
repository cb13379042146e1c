//! Builds the daemons of Kubernetes 1.20 from Debian's source package. It is the last that has everything that they
//! are built from, so nothing else is downloaded, and no registry of images is needed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    apt::Apt,
    arch::Arch,
    tools::unpack_debian,
    workspace::{command, run, tools},
};

/// The Debian release with the source, and with programs that fit it.
const SUITE: &str = "bookworm";

/// Packages of [`SUITE`] that are used as they are.
const PACKAGES: [&str; 3] = ["containernetworking-plugins", "etcd-server", "kubernetes-client"];

/// The Debian release with the Go that this version is made for: what newer ones build crashes.
const GO_SUITE: &str = "bullseye";

const GO: [&str; 2] = ["golang-1.15-go", "golang-1.15-src"];

/// Where [`GO`] is in its packages.
const GO_ROOT: &str = "usr/lib/go-1.15";

/// The version of the source, which the daemons compare with each other's.
const VERSION_TAG: &str = "v1.20.2";

const DAEMONS: [&str; 4] =
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"];

/// The import path of the source.
const IMPORT: &str = "k8s.io/kubernetes";

/// Finds or builds the daemons. Returns the directory with them in `usr/bin`, next to the packages.
pub(crate) fn find() -> Result<PathBuf> {
    let unpacked = tools().join("kubernetes");
    let missing = |daemon: &&str| !unpacked.join("usr/bin").join(daemon).exists();
    if !DAEMONS.iter().any(missing) {
        return Ok(unpacked);
    }
    eprintln!("building Kubernetes in {}, which takes 10 minutes", unpacked.display());
    fs::create_dir_all(&unpacked).with_context(|| unpacked.display().to_string())?;
    let packages = PACKAGES.map(|package| (SUITE, package)).into_iter();
    for (suite, package) in packages.chain(GO.map(|package| (GO_SUITE, package))) {
        unpack_debian(suite, package, &unpacked)?;
    }
    let build = Build::prepare(&unpacked)?;
    build.generate()?;
    for daemon in DAEMONS.into_iter().filter(missing) {
        build.build(daemon)?;
    }
    Ok(unpacked)
}

/// A tree of sources in which Go builds.
struct Build {
    unpacked: PathBuf,
    source: PathBuf,
}

impl Build {
    /// Unpacks the source, unless that has been done.
    fn prepare(unpacked: &Path) -> Result<Self> {
        let source = unpacked.join("go/src").join(IMPORT);
        if !source.exists() {
            let partial = source.with_extension("partial");
            let (_directory, description) =
                Apt::of_sources(SUITE, Arch::host()?.debian())?.download_source("kubernetes")?;
            let mut unpack = command("dpkg-source");
            unpack.args(["--no-check", "--extract"]).arg(description).arg(&partial);
            fs::create_dir_all(source.with_file_name("")).context("go/src")?;
            run(&mut unpack).context("Debian's package dpkg-dev has `dpkg-source`")?;
            fs::rename(&partial, &source).with_context(|| source.display().to_string())?;
        }
        Ok(Self { unpacked: unpacked.into(), source })
    }

    /// Go, without modules, and without a network.
    fn go(&self) -> Command {
        let root = self.unpacked.join(GO_ROOT);
        let mut go = command("nice");
        go.arg(root.join("bin/go")).current_dir(&self.source).env("GOROOT", &root);
        go.env("GOPATH", self.unpacked.join("go")).env("GOCACHE", self.unpacked.join("go/cache"));
        go.env("GO111MODULE", "off").env("GOFLAGS", "").env("CGO_ENABLED", "0");
        go
    }

    /// Generates the file that Debian's package lacks, as `make gen_openapi` does.
    fn generate(&self) -> Result<()> {
        let package = "pkg/generated/openapi";
        if self.source.join(package).join("zz_generated.openapi.go").exists() {
            return Ok(());
        }
        let generator = self.unpacked.join("go/openapi-gen");
        let vendored = format!("{IMPORT}/vendor/k8s.io/kube-openapi/cmd/openapi-gen");
        run(self.go().arg("build").arg("-o").arg(&generator).arg(vendored))?;
        let mut described = BTreeSet::new();
        for directory in ["cmd", "pkg", "plugin", "staging/src/k8s.io"] {
            find_described(&self.source.join(directory), &mut described)?;
        }
        let import = |directory: &PathBuf| {
            let path = directory.strip_prefix(&self.source).ok()?.to_str()?;
            Some(match path.strip_prefix("staging/src/") {
                Some(staged) => format!("{IMPORT}/vendor/{staged}"),
                None => format!("{IMPORT}/{path}"),
            })
        };
        let described: Vec<_> = described.iter().filter_map(import).collect();
        let mut generate = command(&generator);
        generate.current_dir(&self.source).env("GOPATH", self.unpacked.join("go"));
        generate.env("GOROOT", self.unpacked.join(GO_ROOT)).env("GO111MODULE", "off");
        generate.args(["--input-dirs", &described.join(",")]);
        generate.args(["--output-package", &format!("{IMPORT}/{package}")]);
        generate.args(["--output-file-base", "zz_generated.openapi"]);
        generate.args(["--go-header-file", "hack/boilerplate/boilerplate.generatego.txt"]);
        generate.arg("--report-filename").arg(self.unpacked.join("go/violations"));
        run(&mut generate)
    }

    fn build(&self, daemon: &str) -> Result<()> {
        let values = [("gitVersion", VERSION_TAG), ("gitMajor", "1"), ("gitMinor", "20")];
        let packages = ["component-base/version", "client-go/pkg/version"];
        let flags = packages.iter().flat_map(|package| {
            values
                .map(|(name, value)| format!("-X {IMPORT}/vendor/k8s.io/{package}.{name}={value}"))
        });
        let flags = ["-s -w".to_owned()].into_iter().chain(flags).collect::<Vec<_>>().join(" ");
        let built = self.unpacked.join("usr/bin").join(daemon);
        let mut go = self.go();
        go.args(["build", "-ldflags", &flags, "-o"])
            .arg(&built)
            .arg(format!("{IMPORT}/cmd/{daemon}"));
        run(&mut go)?;
        ensure!(built.exists(), "Go did not build {daemon}");
        Ok(())
    }
}

/// Adds the directories whose Go files ask for a description of their types.
fn find_described(directory: &Path, described: &mut BTreeSet<PathBuf>) -> Result<()> {
    const OTHERS: [&str; 3] = ["testdata", "code-generator", "sample-apiserver"];
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    for entry in entries {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            if !OTHERS.contains(&&*name) {
                find_described(&path, described)?;
            }
        } else if name.ends_with(".go") && !name.ends_with("_test.go") {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            if text.contains("+k8s:openapi-gen=") {
                described.insert(directory.to_owned());
            }
        }
    }
    Ok(())
}
