//! Templates of a replacement or of a label's name, as Go's `Regexp.Expand` reads them:
//! <https://pkg.go.dev/regexp#Regexp.Expand>.
//!
//! `$name` and `${name}` stand for what a group matched, by number or by name; `$name` takes as many
//! letters, digits and underscores as there are, so that `$1x` is the group `1x`. A group that is not
//! there, or matched nothing, gives nothing. `$$` is a dollar sign, and so is a `$` that begins none
//! of these.
//!
//! One thing is refused. Go takes letters of every script into a name, and no group can be named by
//! them; so a character beyond ASCII right after a name is a mistake in the template, or needs braces.

use super::{Match, TooLarge, join};
use crate::expr::print::quote;

/// A template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Group(usize),
    Name(String),
}

impl Template {
    /// Parses a template. The error says what to write instead.
    pub(super) fn parse(template: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('$') {
            text.push_str(before);
            rest = after;
            if let Some(after) = rest.strip_prefix('$') {
                text.push('$');
                rest = after;
            } else if let Some((part, after)) = variable(rest)? {
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(part);
                rest = after;
            } else {
                text.push('$');
            }
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self { parts })
    }

    /// The text that it always gives; none where a group has a part in it.
    pub(super) fn literal(&self) -> Option<&str> {
        match &*self.parts {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The template with what the groups of a match hold.
    pub(super) fn expand(&self, found: &Match<'_>) -> Result<String, TooLarge> {
        let value = |part| match part {
            &Part::Group(number) => found.group(number),
            Part::Name(name) => found.named(name),
            Part::Text(text) => text,
        };
        join(self.parts.iter().map(value))
    }
}

/// The variable that begins after a `$`, if one does, and what follows it.
fn variable(text: &str) -> Result<Option<(Part, &str)>, String> {
    let braced = text.strip_prefix('{');
    let inside = braced.unwrap_or(text);
    let end = inside.find(|c: char| !is_word(c)).unwrap_or(inside.len());
    let (name, mut rest) = inside.split_at(end);
    if let Some(c) = rest.chars().next().filter(|c| !c.is_ascii()) {
        let c = quote(c.encode_utf8(&mut [0; 4]));
        return Err(match (braced, name) {
            (None, "") => format!("{c} can't follow a $; write $$ for a dollar sign"),
            (None, _) => format!("{c} can't follow ${name}; write ${{{name}}} before it"),
            (Some(_), _) => format!("{c} can't be in ${{…}}; write the name of a group"),
        });
    }
    if braced.is_some() {
        match rest.strip_prefix('}') {
            Some(after) => rest = after,
            None => return Ok(None),
        }
    }
    Ok((!name.is_empty()).then(|| (group(name), rest)))
}

/// A number has no leading zero; other digits are a name, as Go has it.
fn group(name: &str) -> Part {
    let number = name.parse().ok().filter(|_| name == "0" || !name.starts_with('0'));
    number.map_or_else(|| Part::Name(name.into()), Part::Group)
}

/// Whether a template can give the name of a label: variables, and the letters, digits and
/// underscores of a name, no digit first. What it gives is checked again when it is expanded.
pub(super) fn gives_name(template: &str) -> bool {
    let mut rest = template;
    let mut first = true;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c == '$' {
            let braced = rest.strip_prefix('{');
            let inside = braced.unwrap_or(rest);
            let after = inside.trim_start_matches(is_word);
            let closed = if braced.is_some() { after.strip_prefix('}') } else { Some(after) };
            match closed {
                Some(closed) if after.len() < inside.len() => rest = closed,
                _ => return false,
            }
        } else if !is_word(c) || first && c.is_ascii_digit() {
            return false;
        }
        first = false;
    }
    !first
}

/// Whether Go's `\w` matches it.
fn is_word(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}
