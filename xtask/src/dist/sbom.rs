//! The bill of materials of a binary, in CycloneDX: everything that is linked into it.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    arch::Arch,
    dist::VERSION,
    ebpf,
    workspace::{command, output, revision, root},
};

/// Separates the fields in a line of `cargo tree`.
const FIELD: char = '\t';

/// A crate in the output of `cargo tree`.
struct Crate<'t> {
    name: &'t str,
    version: &'t str,
    /// Whether it comes from crates.io rather than from the workspace.
    is_published: bool,
    license: String,
    repository: &'t str,
    depends_on: Vec<String>,
}

/// Makes the bill of materials. The same binary always gives the same text.
pub(super) fn sbom(arch: Arch, binary: &Path, epoch: &str) -> Result<String> {
    let text = |command: &mut _| anyhow::Ok(String::from_utf8(output(command)?)?.trim().to_owned());
    let tree = |package: &[&str], target: &str| {
        let mut tree = command("cargo");
        tree.args(["tree", "--locked", "--package"]).args(package).args(["--target", target]);
        tree.args(["--edges", "normal,no-proc-macro", "--prefix", "depth"]);
        text(tree.args(["--format", "\t{p}\t{l}\t{r}"]))
    };
    // The binary also holds the kernel program.
    let program = tree(&["sched_exporter-ebpf", "--features", "program"], ebpf::TARGET)?;
    let tree = tree(&["sched_exporter"], arch.target())? + "\n" + &program;
    let mut crates = crates(&tree)?;
    let exporter = format!("sched_exporter@{VERSION}");
    let linked = crates.remove(&exporter).context("`cargo tree` lacks sched_exporter")?;
    let checksums = checksums()?;
    let mut components: Vec<_> =
        crates.iter().map(|(id, it)| it.component(id, &checksums)).collect();
    let mut dependencies = vec![json!({ "ref": exporter, "dependsOn": linked.depends_on })];
    dependencies
        .extend(crates.iter().map(|(id, it)| json!({ "ref": id, "dependsOn": it.depends_on })));
    components.push(json!({
        "type": "library",
        "name": "rust",
        "description": "Rust's standard library",
        "version": text(command("rustc").arg("--version"))?.split(' ').nth(1),
        "licenses": [{ "expression": "MIT OR Apache-2.0" }],
    }));
    components.push(json!({
        "type": "library",
        "name": "glibc",
        "description": "The GNU C Library",
        "version": glibc(&arch.libc()?)?,
        "licenses": [{ "expression": "LGPL-2.1-or-later" }],
    }));
    let sha256 = text(command("sha256sum").arg(binary))?;
    let time = ["--utc", "--date", &format!("@{epoch}"), "+%Y-%m-%dT%H:%M:%SZ"];
    let bom = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": text(command("date").args(time))?,
            "component": {
                "type": "application",
                "bom-ref": exporter,
                "name": "sched_exporter",
                "version": VERSION,
                "licenses": [{ "expression": linked.license }],
                "hashes": [{ "alg": "SHA-256", "content": sha256.split(' ').next() }],
                "externalReferences": [{ "type": "vcs", "url": env!("CARGO_PKG_REPOSITORY") }],
                "properties": [
                    { "name": "sched_exporter:revision", "value": revision() },
                    { "name": "sched_exporter:target", "value": arch.target() },
                ],
            },
        },
        "components": components,
        "dependencies": dependencies,
    });
    Ok(format!("{bom:#}\n"))
}

/// Parses trees into crates by `name@version`. Each line starts with its depth. The dependencies of a
/// crate follow its first occurrence.
fn crates(tree: &str) -> Result<BTreeMap<String, Crate<'_>>> {
    let mut crates: BTreeMap<String, Crate<'_>> = BTreeMap::new();
    let mut path: Vec<String> = Vec::new();
    for line in tree.lines() {
        let fields: Vec<_> = line.trim_end_matches(" (*)").split(FIELD).collect();
        let [depth, package, license, repository] = fields[..] else {
            anyhow::bail!("`cargo tree` printed `{line}`");
        };
        let mut words = package.split(' ');
        let (name, version) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let version = version.trim_start_matches('v');
        let id = format!("{name}@{version}");
        path.truncate(depth.parse()?);
        let parent = path.last().and_then(|parent| crates.get_mut(parent));
        if let Some(parent) = parent.filter(|parent| !parent.depends_on.contains(&id)) {
            parent.depends_on.push(id.clone());
        }
        path.push(id.clone());
        crates.entry(id).or_insert(Crate {
            name,
            version,
            is_published: words.next().is_none(),
            // Older crates separate licenses with a slash instead of SPDX's `OR`.
            license: license.replace('/', " OR "),
            repository,
            depends_on: Vec::new(),
        });
    }
    Ok(crates)
}

impl Crate<'_> {
    fn component(&self, id: &str, checksums: &BTreeMap<String, String>) -> Value {
        let Self { name, version, license, repository, .. } = self;
        let mut component = json!({
            "type": "library",
            "bom-ref": id,
            "name": name,
            "version": version,
            "licenses": [{ "expression": license }],
        });
        if self.is_published {
            component["purl"] = format!("pkg:cargo/{id}").into();
        }
        if let Some(checksum) = checksums.get(id) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        if !repository.is_empty() {
            component["externalReferences"] = json!([{ "type": "vcs", "url": repository }]);
        }
        component
    }
}

/// The checksum of each crate's archive in Cargo.lock, by `name@version`.
fn checksums() -> Result<BTreeMap<String, String>> {
    let lock = fs::read_to_string(root().join("Cargo.lock")).context("Cargo.lock")?;
    let packages = lock.split("[[package]]").skip(1).filter_map(|package| {
        let value = |key: &str| {
            let mut pairs = package.lines().filter_map(|line| line.split_once(" = "));
            pairs.find(|(found, _)| *found == key).map(|(_, value)| value.trim_matches('"'))
        };
        let id = format!("{}@{}", value("name")?, value("version")?);
        Some((id, value("checksum")?.to_owned()))
    });
    Ok(packages.collect())
}

/// The version of the C library in an archive.
fn glibc(archive: &Path) -> Result<String> {
    const BEFORE: &[u8] = b"GNU C Library (";
    let bytes = fs::read(archive).with_context(|| archive.display().to_string())?;
    let found = bytes.windows(BEFORE.len()).position(|window| window == BEFORE);
    let unnamed = || format!("{} does not name its version", archive.display());
    let version =
        bytes[found.with_context(unnamed)?..].split(|byte| matches!(byte, b'(' | b')')).nth(1);
    let version = String::from_utf8_lossy(version.unwrap_or_default());
    // Such as "Debian GLIBC 2.36-9".
    Ok(version.split(' ').next_back().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::crates;

    #[test]
    fn deeper_lines_are_dependencies() {
        let tree = "0\texporter v1.0.0 (/tmp/x)\tMIT\t\n\
                    1\ta v0.1.0\tMIT/Apache-2.0\thttps://a.example\n\
                    2\tb v2.0.0\tMIT\t\n\
                    1\tb v2.0.0\tMIT\t (*)\n";
        let crates = crates(tree).unwrap();
        assert_eq!(crates["exporter@1.0.0"].depends_on, ["a@0.1.0", "b@2.0.0"]);
        assert!(!crates["exporter@1.0.0"].is_published);
        assert_eq!(crates["a@0.1.0"].depends_on, ["b@2.0.0"]);
        assert_eq!(crates["a@0.1.0"].license, "MIT OR Apache-2.0");
        assert!(crates["b@2.0.0"].depends_on.is_empty() && crates["b@2.0.0"].is_published);
    }
}
