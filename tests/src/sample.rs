//! One line of an exposition, read back into what was meant. Strict, and slow: it shares nothing
//! with the encoder.

use std::{iter::Peekable, str::Chars};

/// A series with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Name of the sample, suffix included.
    pub name: String,
    /// Label names and values, in the order of the line, escapes undone.
    pub labels: Vec<(String, String)>,
    /// The value as written; empty where only the series was read.
    pub value: String,
}

impl Sample {
    /// Reads a line without its end, or says what is wrong with it. The value may be missing.
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
                labels.push((label, quoted(&mut rest).ok_or_else(|| format!("open: {line:?}"))?));
                match rest.next() {
                    Some(',') => {}
                    Some('}') => break,
                    other => return Err(format!("{other:?} behind a label in {line:?}")),
                }
            }
        }
        let value = match rest.next() {
            None => String::new(),
            Some(' ') => rest.collect(),
            Some(other) => return Err(format!("{other:?} behind the series in {line:?}")),
        };
        if name.is_empty() || value.contains(' ') {
            return Err(format!("not a sample: {line:?}"));
        }
        Ok(Self { name, labels, value })
    }

    /// A label's value.
    pub fn label(&self, name: &str) -> Option<&str> {
        let label = self.labels.iter().find(|(found, _)| found == name);
        label.map(|(_, value)| value.as_str())
    }
}

/// A text in which `\\`, `\n` and, as `quotes` says, `\"` stand for what they escape; none where
/// anything else is escaped, or one of these is not.
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

/// What stands between quotes, and takes it with the quotes.
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
