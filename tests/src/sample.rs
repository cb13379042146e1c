//! A strict parser of one line of an exposition. Slow, because it shares nothing with the encoder.

use std::{iter::Peekable, str::Chars};

/// A series with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Name of the sample, including its suffix.
    pub name: String,
    /// Label names and unescaped values, in the order of the line.
    pub labels: Vec<(String, String)>,
    /// The value as written; empty if the line is only a series.
    pub value: String,
}

impl Sample {
    /// Parses a line without its line break. The value may be missing.
    pub fn read(line: &str) -> Result<Self, String> {
        let mut rest = line.chars().peekable();
        let name = take_while(&mut rest, is_name);
        let mut labels = Vec::new();
        if rest.next_if_eq(&'{').is_some() {
            loop {
                let label = take_while(&mut rest, is_name);
                if label.is_empty() || rest.next() != Some('=') {
                    return Err(format!("no label name in {line:?}"));
                }
                labels.push((
                    label,
                    quoted(&mut rest).ok_or_else(|| format!("unterminated value in {line:?}"))?,
                ));
                match rest.next() {
                    Some(',') => {}
                    Some('}') => break,
                    other => return Err(format!("{other:?} after a label in {line:?}")),
                }
            }
        }
        let value = match rest.next() {
            None => String::new(),
            Some(' ') => rest.collect(),
            Some(other) => return Err(format!("{other:?} after the series in {line:?}")),
        };
        if name.is_empty() || value.contains(' ') {
            return Err(format!("not a sample: {line:?}"));
        }
        Ok(Self { name, labels, value })
    }

    /// Value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        let label = self.labels.iter().find(|(found, _)| found == name);
        label.map(|(_, value)| value.as_str())
    }
}

/// Replaces the escapes `\\`, `\n` and, with `quotes`, `\"`. `None` if the text has any other
/// escape, or contains one of these characters unescaped.
pub fn unescape(text: &str, quotes: bool) -> Option<String> {
    let mut chars = text.chars();
    let mut plain = String::new();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '\\' => match chars.next()? {
                'n' => '\n',
                '\\' => '\\',
                '"' if quotes => '"',
                _ => return None,
            },
            '\n' => return None,
            '"' if quotes => return None,
            c => c,
        });
    }
    Some(plain)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn take_while(rest: &mut Peekable<Chars<'_>>, is_part: fn(char) -> bool) -> String {
    std::iter::from_fn(|| rest.next_if(|c| is_part(*c))).collect()
}

/// Takes a quoted string, and returns it unescaped.
fn quoted(rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    rest.next_if_eq(&'"')?;
    let mut escaped = String::new();
    loop {
        match rest.next()? {
            '"' => return unescape(&escaped, true),
            '\\' => escaped.extend(['\\', rest.next()?]),
            c => escaped.push(c),
        }
    }
}
