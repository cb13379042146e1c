//! The commands in docs/deploy.md and docs/releases.md and the queries in docs/cgroups.md, so that tests
//! run what readers type.

const GUIDE: &str = include_str!("../../docs/deploy.md");
const RELEASES: &str = include_str!("../../docs/releases.md");
const CGROUPS: &str = include_str!("../../docs/cgroups.md");

/// The `PromQL` queries about cgroups, in order.
pub fn cgroup_queries() -> Vec<&'static str> {
    blocks(CGROUPS, "promql")
}

/// The `PromQL` queries in docs/deploy.md that use the names of pods, in order.
pub fn name_queries() -> Vec<&'static str> {
    blocks(section(GUIDE, "Names of pods and containers"), "promql")
}

/// The commands in docs/releases.md within the section with a title, in order.
#[track_caller]
pub fn release_commands(title: &str) -> Vec<&'static str> {
    blocks(section(RELEASES, title), "sh")
}

/// The nth block, from 0, in a language within the section of docs/deploy.md with a title.
#[track_caller]
pub fn block(title: &str, language: &str, number: usize) -> String {
    let blocks = blocks(section(GUIDE, title), language);
    let block = blocks.get(number);
    (*block.unwrap_or_else(|| panic!("{title} has no {language} block {number}"))).to_owned()
}

/// The section of a document with a title.
#[track_caller]
fn section(document: &'static str, title: &str) -> &'static str {
    let heading = format!("\n## {title}\n");
    let section =
        document.split_once(&heading).map(|(_, rest)| rest.split("\n## ").next().unwrap());
    section.unwrap_or_else(|| panic!("the document has no section {title}"))
}

/// The blocks in a language, in order.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("\n```{language}\n");
    let blocks = text.split(fence.as_str()).skip(1);
    blocks.map(|block| block.split("\n```").next().unwrap()).collect()
}
