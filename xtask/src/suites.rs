//! The test suites of the workspace, and which of them may hold a test of a given name.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::workspace::{command, output};

/// A target of a package that cargo builds as a test harness.
pub(crate) struct Suite {
    /// The target's name.
    pub name: String,
    /// Arguments that make `cargo test` build this suite and no other.
    pub selection: Vec<String>,
    /// The directory of its source files.
    pub source: PathBuf,
}

/// Lists every suite of the workspace.
pub(crate) fn suites() -> Result<Vec<Suite>> {
    let metadata = ["metadata", "--no-deps", "--offline", "--format-version=1"];
    let metadata: Value = serde_json::from_slice(&output(command("cargo").args(metadata))?)?;
    let packages = metadata["packages"].as_array().context("cargo's metadata lacks packages")?;
    let mut suites = Vec::new();
    for package in packages {
        let targets = package["targets"].as_array().context("cargo's metadata lacks targets")?;
        for target in targets.iter().filter(|target| target["test"] == true) {
            let text = |pointer| target.pointer(pointer).and_then(Value::as_str);
            let fields = (text("/name"), text("/kind/0"), text("/src_path"));
            let (Some(name), Some(kind), Some(file)) = fields else { continue };
            let selection = match kind {
                // Libraries cannot be selected by name, so select the package. Elsewhere, selecting
                // the whole workspace shares dependencies with a build of all tests.
                "lib" => {
                    let package = package["name"].as_str().context("a package without a name")?;
                    vec!["--package".into(), package.into(), "--lib".into()]
                }
                kind => vec!["--workspace".into(), format!("--{kind}"), name.into()],
            };
            let source = Path::new(file).with_file_name("");
            suites.push(Suite { name: name.to_owned(), selection, source });
        }
    }
    Ok(suites)
}

impl Suite {
    /// Whether the source contains every part of `path`, such as `config` and `tests` of
    /// `config::tests`. If it does not, no test has this path.
    pub(crate) fn may_contain(&self, path: &str) -> Result<bool> {
        let mut missing: Vec<&str> = path.split("::").collect();
        visit(&self.source, &mut |file| {
            let name = file.strip_prefix(&self.source)?.to_string_lossy();
            let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
            missing.retain(|part| !name.contains(part) && !text.contains(part));
            Ok(())
        })?;
        Ok(missing.is_empty())
    }
}

/// Calls `look` with each Rust source file in a directory and its subdirectories.
fn visit(directory: &Path, look: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            visit(&path, look)?;
        } else if path.extension() == Some(OsStr::new("rs")) {
            look(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::suites;

    #[test]
    fn only_the_suite_that_names_every_part_may_contain_a_test() {
        // Concatenated, so that this file does not contain the path.
        let path = ["suites::tests::only_the_suite", "_that"].concat();
        let found = |path: &str| -> Vec<String> {
            let suites = suites().unwrap().into_iter();
            suites.filter(|suite| suite.may_contain(path).unwrap()).map(|it| it.name).collect()
        };
        assert_eq!(found(&path), ["xtask"]);
        assert_eq!(found(&["properties::no_such", "_test"].concat()), [""; 0]);
    }
}
