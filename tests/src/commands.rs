//! The commands in docs/deploy.md and the queries in docs/cgroups.md, so that tests run what readers
//! type.

const GUIDE: &str = include_str!("../../docs/deploy.md");
const CGROUPS: &str = include_str!("../../docs/cgroups.md");

/// The `PromQL` queries about cgroups, in order.
pub fn cgroup_queries() -> Vec<&'static str> {
    let blocks = CGROUPS.split("\n```promql\n").skip(1);
    blocks.map(|block| block.split("\n```").next().unwrap()).collect()
}

/// The nth block, from 0, in a language within the section with a title.
#[track_caller]
pub fn block(title: &str, language: &str, number: usize) -> String {
    let heading = format!("\n## {title}\n");
    let section = GUIDE.split_once(&heading).map(|(_, rest)| rest.split("\n## ").next().unwrap());
    let section = section.unwrap_or_else(|| panic!("docs/deploy.md has no section {title}"));
    let fence = format!("\n```{language}\n");
    let block = section.split(fence.as_str()).nth(number + 1);
    let block = block.unwrap_or_else(|| panic!("{title} has no {language} block {number}"));
    block.split("\n```").next().unwrap().to_owned()
}
