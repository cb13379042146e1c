//! Prints arbitrary text: in messages, so that terminals and logs show it, and control characters do nothing; and
//! in labels.

use std::{borrow::Cow, fmt::Write as _};

/// Maximum number of characters of a key or value in a message.
pub const MAX_CHARS: usize = 40;

/// Escapes everything that a terminal might interpret. Quotes and backslashes stay as they are:
/// `"a"` stays `"a"`, and a newline becomes `\n`.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' | '\\' => escaped.push(c),
            _ => escaped.extend(c.escape_debug()),
        }
    }
    escaped
}

/// Escapes the first `max` characters, and adds `…` if there are more.
pub fn shorten(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => escape(&text[..end]) + "…",
        None => escape(text),
    }
}

/// A text as the value of a label. Bytes that are not UTF-8, and control characters, become `\xNN`, as systemd
/// writes them in the names of units. An equal text is ambiguous only if it contains such an escape literally.
pub fn visible(bytes: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => Cow::Borrowed(text),
        _ => Cow::Owned(escaped(bytes)),
    }
}

fn escaped(bytes: &[u8]) -> String {
    let mut label = String::new();
    let escape = |label: &mut String, bytes: &[u8]| {
        for byte in bytes {
            let _ = write!(label, "\\x{byte:02x}");
        }
    };
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            if char.is_control() {
                escape(&mut label, char.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                label.push(char);
            }
        }
        escape(&mut label, chunk.invalid());
    }
    label
}

/// Puts the beginning of a text in double quotes, shortened to [`MAX_CHARS`].
pub fn quote(text: &str) -> String {
    format!("\"{}\"", shorten(text, MAX_CHARS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_quotes_are_not() {
        assert_eq!(escape("é \"a\\b'\n\u{1b}[31m\u{202e}"), "é \"a\\b'\\n\\u{1b}[31m\\u{202e}");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(shorten("ééé", 3), "ééé");
        assert_eq!(shorten("ééé", 2), "éé…");
        assert_eq!(quote(&"\n".repeat(41)), format!("\"{}…\"", "\\n".repeat(40)));
    }
}
