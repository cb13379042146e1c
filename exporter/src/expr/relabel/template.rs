//! Templates of a replacement or of a label name, in the syntax of Go's `Regexp.Expand`:
//! <https://pkg.go.dev/regexp#Regexp.Expand>.
//!
//! `$name` and `${name}` are the text of a group, by number or by name. `$name` extends over all
//! letters, digits and underscores that follow, so `$1x` is the group `1x`. A group that does not
//! exist or did not match is empty. `$$` is a dollar sign, and so is a `$` that starts none of these.
//!
//! One thing is rejected that Go accepts. In Go, `$name` also extends over non-ASCII letters, but no
//! group can have such a name. So a non-ASCII character right after a name is an error; braces around
//! the name avoid it.

use super::{Match, TooLarge, join};
use crate::expr::print::quote;

/// A parsed template.
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
    /// Parses a template. The error includes what to write instead.
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

    /// Returns the text of a template without groups.
    pub(super) fn literal(&self) -> Option<&str> {
        match &*self.parts {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether the text is always empty.
    pub(super) const fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The names of groups that it uses; not their numbers.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Name(name) => Some(name.as_str()),
            Part::Text(_) | Part::Group(_) => None,
        })
    }

    /// Replaces the groups by their text in a match.
    pub(super) fn expand(&self, found: &Match<'_>) -> Result<String, TooLarge> {
        let value = |part| match part {
            &Part::Group(number) => found.group(number),
            Part::Name(name) => found.named(name),
            Part::Text(text) => text,
        };
        join(self.parts.iter().map(value))
    }
}

/// Parses the group after a `$`, if there is one, and returns it with the rest of the text: group 1
/// and `-x` for `{1}-x`.
fn variable(text: &str) -> Result<Option<(Part, &str)>, String> {
    let braced = text.strip_prefix('{');
    let inside = braced.unwrap_or(text);
    let end = inside.find(|c: char| !is_word(c)).unwrap_or(inside.len());
    let (name, mut rest) = inside.split_at(end);
    if let Some(c) = rest.chars().next().filter(|c| !c.is_ascii()) {
        let c = quote(c.encode_utf8(&mut [0; 4]));
        return Err(match (braced, name) {
            (None, "") => format!("{c} cannot follow $; write $$ for a dollar sign"),
            (None, _) => format!("{c} cannot follow ${name}; write ${{{name}}} before it"),
            (Some(_), _) => format!("{c} cannot be in ${{…}}; write the name of a group"),
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

/// Parses the name or number of a group. As in Go, digits with a leading zero are a name.
fn group(name: &str) -> Part {
    let number = name.parse().ok().filter(|_| name == "0" || !name.starts_with('0'));
    number.map_or_else(|| Part::Name(name.into()), Part::Group)
}

/// Whether a template can give a label name: it consists of groups, letters, digits and underscores,
/// and does not start with a digit. The name is checked again when the template is expanded.
pub(super) fn gives_name(template: &str) -> bool {
    let mut rest = template;
    let mut is_first = true;
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
        } else if !is_word(c) || is_first && c.is_ascii_digit() {
            return false;
        }
        is_first = false;
    }
    !is_first
}

/// Whether Go's `\w` matches the character.
fn is_word(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}
