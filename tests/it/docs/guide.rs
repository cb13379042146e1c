//! docs/deploy.md, and the links of every document.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::root;

/// All files below a directory whose names end with `suffix`.
pub(super) fn files(directory: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, suffix));
        } else if path.to_string_lossy().ends_with(suffix) {
            found.push(path);
        }
    }
    found
}

#[test]
fn every_message_in_docs_deploy_md_is_in_the_source() {
    let guide = fs::read_to_string(root().join("docs/deploy.md")).unwrap();
    let (_, table) =
        guide.split_once("\n| message | cause | what to do |\n|---|---|---|\n").unwrap();
    let rows = table.split("\n\n").next().unwrap().lines();
    let messages: Vec<_> = rows.map(|row| row.split('`').nth(1).unwrap()).collect();
    assert!(messages.len() > 10);
    let mut said = String::new();
    for file in files(&root().join("exporter/src"), ".rs") {
        if file.ends_with("tests.rs") {
            continue;
        }
        let source = fs::read_to_string(file).unwrap();
        let code = source.split("#[cfg(test)]").next().unwrap();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        // Join strings that continue on the next line.
        said.extend(lines.collect::<Vec<_>>().join("\n").split("\\\n").map(str::trim_start));
    }
    for message in messages {
        assert!(said.contains(message), "no source file contains: {message}");
    }
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(document: &str) -> BTreeSet<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        heading.chars().filter(kept).collect::<String>().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn every_relative_link_resolves() {
    let mut documents = files(&root().join("docs"), ".md");
    documents.extend(files(&root().join("deploy"), ".md"));
    documents.extend(files(&root().join(".github"), ".md"));
    documents.extend(
        [
            "README.md",
            "ARCHITECTURE.md",
            "CHANGELOG.md",
            "CONTRIBUTING.md",
            "SECURITY.md",
            "tests/README.md",
        ]
        .map(|name| root().join(name)),
    );
    let mut links = 0;
    for document in &documents {
        let text = fs::read_to_string(document).unwrap();
        let targets = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        let pictures = text.split("src=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        for link in targets.chain(pictures) {
            if link.starts_with("http") {
                continue;
            }
            links += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let file = match file {
                "" => document.clone(),
                file => document.parent().unwrap().join(file),
            };
            assert!(file.exists(), "{}: {link}", document.display());
            let found =
                anchor.is_empty() || anchors(&fs::read_to_string(file).unwrap()).contains(anchor);
            assert!(found, "{}: {link}", document.display());
        }
    }
    assert!(links > 30, "{links}");
}
