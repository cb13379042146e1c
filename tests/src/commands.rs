//! The commands of docs/deploy.md, so that what it tells a reader to type is what tests run.

const GUIDE: &str = include_str!("../../docs/deploy.md");

/// The block in this language with this number, from 0, in the section with this title.
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
