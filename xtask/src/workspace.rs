//! The workspace's directories, and commands that run in it.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The directory of the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    // Cargo sets the package's current path; the compiled-in path is for a binary run without cargo.
    let xtask = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    xtask.parent().map_or(xtask.clone(), Path::to_path_buf)
}

/// The directory of the tools that xtask installs.
pub(crate) fn tools() -> PathBuf {
    root().join("target/tools")
}

/// Cargo's target directory.
pub(crate) fn target_directory() -> PathBuf {
    root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Cargo's directory for downloads.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    let set = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = set.or_else(|| Some(env::home_dir()?.join(".cargo")));
    home.context("neither CARGO_HOME nor HOME is set")
}

/// A command that runs at the root of the workspace, without the variables that cargo set for xtask's
/// package: otherwise build scripts would rebuild what was already built outside xtask.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    for (name, _) in env::vars_os() {
        let is_ours = |name: &str| name == "CARGO_MANIFEST_DIR" || name.starts_with("CARGO_PKG_");
        if name.to_str().is_some_and(is_ours) {
            command.env_remove(name);
        }
    }
    command
}

/// A command that runs as root, with `sudo` if needed. Variables become arguments, since `sudo` may drop
/// its environment.
pub(crate) fn root_command(program: &Path, variables: &[(&str, PathBuf)]) -> Command {
    if is_root() {
        let mut command = Command::new(program);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        return command;
    }
    let mut command = Command::new("sudo");
    command.arg("env");
    for (name, value) in variables {
        let mut variable = OsStr::new(name).to_owned();
        variable.push("=");
        variable.push(value);
        command.arg(variable);
    }
    command.arg(program);
    command
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Runs a command to its end. Its output goes to ours.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| spell(command))?;
    if !status.success() {
        bail!("{}: {status}", spell(command));
    }
    Ok(())
}

/// Runs a command and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stderr(Stdio::inherit()).output().with_context(|| spell(command))?;
    if !output.status.success() {
        bail!("{}: {}", spell(command), output.status);
    }
    Ok(output.stdout)
}

/// Runs a command silently and returns its standard output, or `None` if it fails.
pub(crate) fn probe(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Formats a command as a user would type it.
pub(crate) fn spell(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// An executable that cargo built.
pub(crate) struct Executable {
    /// The directory of its package.
    pub package: PathBuf,
    /// The target's name.
    pub name: String,
    /// The target's kind: `bin`, `lib`, `test`, `bench`.
    pub kind: String,
    /// Whether it is a test harness.
    pub test: bool,
    /// The file.
    pub path: PathBuf,
}

impl Executable {
    /// A command that runs it.
    pub(crate) fn command(&self) -> Command {
        self.as_cargo_runs(Command::new(&self.path))
    }

    /// Sets the directory and the environment in which cargo runs tests.
    pub(crate) fn as_cargo_runs(&self, mut command: Command) -> Command {
        command.current_dir(&self.package).env("CARGO_MANIFEST_DIR", &self.package);
        command
    }

    /// Its kind and name, as a heading.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }
}

/// Runs `cargo` with these arguments and returns the executables that it built.
pub(crate) fn build(args: &[&str]) -> Result<Vec<Executable>> {
    executables(command("cargo").args(args).arg(MESSAGES))
}

/// Flags that keep this machine's paths out of rustc's output. `library` is the standard library's
/// source.
pub(crate) fn remap_flags(library: &Path) -> Result<Vec<OsString>> {
    // Fetch first: only then do the directories of cargo's registries exist.
    run(command("cargo").args(["fetch", "--quiet", "--locked"]))?;
    let remap = |from: &Path, to: &str| {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(from);
        flag.push("=");
        flag.push(to);
        flag
    };
    // The last match wins, so directories that may be inside the checkout come later.
    let mut flags = vec![remap(&root(), ""), remap(&target_directory(), "target")];
    let sources = cargo_home()?.join("registry/src");
    for registry in fs::read_dir(&sources).with_context(|| sources.display().to_string())? {
        flags.push(remap(&registry?.path(), "/cargo"));
    }
    flags.push(remap(library, "/rust-library"));
    Ok(flags)
}

/// The variable that gives the exporter's build script the revision if there is no repository.
pub(crate) const REVISION: &str = "SCHED_EXPORTER_REVISION";

/// The commit, with `-dirty` if the tree differs; `None` without a repository.
pub(crate) fn revision() -> Option<String> {
    let describe = ["describe", "--always", "--exclude=*", "--abbrev=12", "--dirty"];
    env::var(REVISION).ok().or_else(|| probe(command("git").args(describe)))
}

/// Makes cargo print the paths of the files that it builds.
pub(crate) const MESSAGES: &str = "--message-format=json-render-diagnostics";

/// Runs a cargo command that has [`MESSAGES`] and returns the executables that it built.
pub(crate) fn executables(cargo: &mut Command) -> Result<Vec<Executable>> {
    let messages = String::from_utf8(output(cargo)?).context("cargo's messages")?;
    let mut executables = Vec::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's messages")?;
        let text = |pointer| message.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        if text("/executable").is_empty() {
            continue;
        }
        executables.push(Executable {
            package: Path::new(text("/manifest_path")).with_file_name(""),
            name: text("/target/name").to_owned(),
            kind: text("/target/kind/0").to_owned(),
            test: message.pointer("/profile/test") == Some(&Value::Bool(true)),
            path: text("/executable").into(),
        });
    }
    Ok(executables)
}

/// Builds the exporter for this machine.
pub(crate) fn build_exporter() -> Result<PathBuf> {
    let args = ["build", "--release", "--package", "sched_exporter", "--bin", "sched_exporter"];
    named(&build(&args)?, "sched_exporter")
}

/// The path of the executable with this name.
pub(crate) fn named(built: &[Executable], name: &str) -> Result<PathBuf> {
    let found = built.iter().find(|executable| executable.name == name);
    Ok(found.with_context(|| format!("cargo built no `{name}`"))?.path.clone())
}
