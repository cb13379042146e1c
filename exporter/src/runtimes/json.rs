//! Reads JSON of which only a few fields matter, without keeping the rest in memory.

use std::{fmt, marker::PhantomData, mem};

use serde::{
    Deserialize,
    de::{Deserializer as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Deserializer, value::RawValue};

use super::error::AskError;
use crate::os::http_client::Exchange;

/// The error when a text has no such array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SplitError {
    #[error("the JSON is not as expected at byte {0}")]
    Form(u64),
    #[error("the JSON is cut off at byte {0}")]
    Truncated(u64),
}

/// Splits a text that arrives in pieces into the objects of one of its arrays, so that only one of them is in
/// memory at a time. It checks only what it needs to find them: the parser of the objects checks the rest.
#[derive(Debug)]
pub(super) struct Objects {
    /// The brackets that enclose an object, from the outside.
    around: &'static [u8],
    max_bytes: usize,
    /// Number of brackets that are open, and how many of them, from the outside, are those of `around`.
    open: usize,
    matching: usize,
    in_string: bool,
    is_escaped: bool,
    is_done: bool,
    object: Object,
    /// Number of bytes read so far.
    offset: u64,
}

/// The object that is being read.
#[derive(Debug)]
enum Object {
    /// None is.
    Outside,
    /// What earlier pieces had of it.
    Begun(Vec<u8>),
    /// It is too large.
    TooLarge,
}

impl Objects {
    /// Splits an array of objects. Objects of more than `max_bytes` are skipped.
    pub(super) const fn of_array(max_bytes: usize) -> Self {
        Self::new(b"[", max_bytes)
    }

    /// Splits the arrays of objects that an object has, of which Kubernetes' lists have one.
    pub(super) const fn of_list(max_bytes: usize) -> Self {
        Self::new(b"{[", max_bytes)
    }

    const fn new(around: &'static [u8], max_bytes: usize) -> Self {
        Self {
            around,
            max_bytes,
            open: 0,
            matching: 0,
            in_string: false,
            is_escaped: false,
            is_done: false,
            object: Object::Outside,
            offset: 0,
        }
    }

    /// Receives a body of at most `max_bytes`, and passes each of its objects to `each`.
    pub(super) async fn receive(
        mut self,
        answer: &mut Exchange,
        max_bytes: usize,
        mut each: impl FnMut(&[u8]) -> Result<(), AskError>,
    ) -> Result<(), AskError> {
        let mut left = max_bytes;
        while let Some(piece) = answer.chunk().await? {
            left = left.checked_sub(piece.len()).ok_or(AskError::TooLarge(max_bytes))?;
            self.push(&piece, &mut each)?;
        }
        Ok(self.end()?)
    }

    /// Takes the next piece of the text, and passes the objects that it completes to `each`.
    pub(super) fn push<E: From<SplitError>>(
        &mut self,
        piece: &[u8],
        each: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        // Where the object, or the rest of it, begins in this piece.
        let mut from = 0;
        let mut at = 0;
        while at < piece.len() {
            let byte = piece[at];
            at += 1;
            if self.in_string {
                self.string(byte);
                continue;
            }
            match byte {
                b'{' | b'[' if self.open > 0 || !self.is_done && byte == self.around[0] => {
                    if byte == b'{' && self.is_around() {
                        self.object = Object::Begun(Vec::new());
                        from = at - 1;
                    }
                    if self.matching == self.open && self.around.get(self.open) == Some(&byte) {
                        self.matching += 1;
                    }
                    self.open += 1;
                }
                _ if self.open == 0 && !byte.is_ascii_whitespace() => {
                    return Err(SplitError::Form(self.offset + at as u64).into());
                }
                b'"' => self.in_string = true,
                b'}' | b']' => {
                    self.open -= 1;
                    if self.is_inside() && self.is_around() {
                        if byte == b']' {
                            return Err(SplitError::Form(self.offset + at as u64).into());
                        }
                        self.complete(&piece[from..at], each)?;
                    }
                    self.matching = self.matching.min(self.open);
                    self.is_done = self.open == 0;
                }
                _ => {}
            }
        }
        if self.is_inside() {
            self.keep(&piece[from..]);
        }
        self.offset += piece.len() as u64;
        Ok(())
    }

    /// Checks that the text is complete.
    pub(super) const fn end(&self) -> Result<(), SplitError> {
        if self.is_done { Ok(()) } else { Err(SplitError::Truncated(self.offset)) }
    }

    const fn string(&mut self, byte: u8) {
        if self.is_escaped {
            self.is_escaped = false;
        } else if byte == b'\\' {
            self.is_escaped = true;
        } else if byte == b'"' {
            self.in_string = false;
        }
    }

    /// Whether all brackets that are open are those around objects.
    const fn is_around(&self) -> bool {
        self.matching == self.around.len() && self.open == self.around.len()
    }

    const fn is_inside(&self) -> bool {
        !matches!(self.object, Object::Outside)
    }

    /// Adds a part to the object, and drops the object if that makes it too large.
    fn keep(&mut self, part: &[u8]) {
        let Object::Begun(object) = &mut self.object else { return };
        if part.len() > self.max_bytes - object.len() {
            self.object = Object::TooLarge;
        } else {
            object.extend_from_slice(part);
        }
    }

    fn complete<E>(
        &mut self,
        part: &[u8],
        each: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        match mem::replace(&mut self.object, Object::Outside) {
            Object::Begun(begun) if part.len() > self.max_bytes - begun.len() => Ok(()),
            Object::Begun(begun) if begun.is_empty() => each(part),
            Object::Begun(begun) => each(&[&begun, part].concat()),
            Object::TooLarge | Object::Outside => Ok(()),
        }
    }
}

/// Passes each element of an array to `take`. `None` and `null` have none.
pub(super) fn elements<'j, T: Deserialize<'j>>(
    array: Option<&'j RawValue>,
    take: impl FnMut(T),
) -> serde_json::Result<()> {
    let Some(array) = array else { return Ok(()) };
    Deserializer::from_str(array.get()).deserialize_any(Elements { take, element: PhantomData })
}

/// Passes each pair of strings of an object to `take`. `None` and `null` have none.
pub(super) fn pairs(
    object: Option<&RawValue>,
    take: impl FnMut(&str, &str),
) -> serde_json::Result<()> {
    let Some(object) = object else { return Ok(()) };
    Deserializer::from_str(object.get()).deserialize_any(Pairs(take))
}

struct Elements<F, T> {
    take: F,
    element: PhantomData<T>,
}

impl<'j, T: Deserialize<'j>, F: FnMut(T)> Visitor<'j> for Elements<F, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'j>>(mut self, mut array: A) -> Result<(), A::Error> {
        while let Some(element) = array.next_element()? {
            (self.take)(element);
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

struct Pairs<F>(F);

impl<'j, F: FnMut(&str, &str)> Visitor<'j> for Pairs<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'j>>(mut self, mut object: A) -> Result<(), A::Error> {
        while let Some((key, value)) = object.next_entry::<String, String>()? {
            (self.0)(&key, &value);
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use serde_json::{Value, json};

    use super::*;

    const MAX: usize = 100;

    /// Splits a text in pieces of at most `size` bytes.
    fn split(mut objects: Objects, text: &str, size: usize) -> Result<Vec<String>, SplitError> {
        let mut found = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            objects.push::<SplitError>(piece, &mut |object| {
                found.push(str::from_utf8(object).unwrap().to_owned());
                Ok(())
            })?;
        }
        objects.end()?;
        Ok(found)
    }

    #[track_caller]
    fn check(objects: fn(usize) -> Objects, text: &str, expected: &[&str]) {
        for size in 1..=text.len() {
            assert_eq!(split(objects(MAX), text, size).unwrap(), expected, "{text} by {size}");
        }
    }

    #[test]
    fn finds_the_objects_of_an_array() {
        check(Objects::of_array, "[]", &[]);
        check(Objects::of_array, " [ {} , {\"a\":[{}]}\n]\n", &["{}", r#"{"a":[{}]}"#]);
        check(Objects::of_array, r#"[{"a":"]}\"[{\\"},1,[{}],null]"#, &[r#"{"a":"]}\"[{\\"}"#]);
    }

    #[test]
    fn finds_the_items_of_a_list() {
        let text =
            r#"{"kind":"PodList","metadata":{"a":[{}]},"items":[{"a":{}},{"b":"]"}],"c":{}}"#;
        check(Objects::of_list, text, &[r#"{"a":{}}"#, r#"{"b":"]"}"#]);
        check(Objects::of_list, r#"{"items":null}"#, &[]);
        check(Objects::of_list, r#"{"a":{},"b":[[{}],1]}"#, &[]);
    }

    #[test]
    fn large_objects_are_skipped_and_cost_nothing() {
        let large = format!(r#"{{"a":"{}"}}"#, "a".repeat(MAX));
        let fits = format!(r#"{{"a":"{}"}}"#, "a".repeat(MAX - 8));
        let text = format!("[{large},{fits},{large},{{}}]");
        check(Objects::of_array, &text, &[&fits, "{}"]);
        let mut objects = Objects::of_array(MAX);
        objects.push::<SplitError>(b"[{\"", &mut |_| Ok(())).unwrap();
        for _ in 0..1000 {
            objects.push::<SplitError>(&[b'a'; MAX], &mut |_| Ok(())).unwrap();
            let Object::Begun(object) = &objects.object else { continue };
            assert!(object.capacity() <= 2 * MAX);
        }
    }

    #[test]
    fn other_texts_are_errors() {
        for (text, error) in [
            (r#"{"message":[{}]}"#, SplitError::Form(1)),
            ("", SplitError::Truncated(0)),
            ("[{}", SplitError::Truncated(3)),
            (r#"["a"#, SplitError::Truncated(3)),
            ("]", SplitError::Form(1)),
            ("[]]", SplitError::Form(3)),
            ("[] []", SplitError::Form(4)),
            ("[]\"a\"", SplitError::Form(3)),
            ("\"[]\"", SplitError::Form(1)),
            ("page not found", SplitError::Form(1)),
            ("[{]", SplitError::Form(3)),
            ("[{},[},{}", SplitError::Truncated(9)),
            (r#"[{},{"a":[]]"#, SplitError::Form(12)),
        ] {
            for size in 1..=10 {
                assert_eq!(split(Objects::of_array(MAX), text, size), Err(error), "{text}");
            }
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i32>().prop_map(Value::from),
            r#"[\[\]{}"\\a,:é]{0,6}"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::from),
                vec(("[a-c]", inner), 0..4).prop_map(|pairs| pairs.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn objects_are_those_that_a_parser_finds(values in vec(value(), 0..6), size in 1usize..40) {
            let expected: Vec<_> = values.iter().filter(|it| it.is_object()).cloned().collect();
            let parse = |text: &String| serde_json::from_str::<Value>(text).unwrap();
            let text = format!("{:#}", Value::from(values.clone()));
            let found = split(Objects::of_array(1 << 20), &text, size).unwrap();
            prop_assert_eq!(&found.iter().map(parse).collect::<Vec<_>>(), &expected);
            let text = json!({"a": {"b": [{}]}, "items": values}).to_string();
            let found = split(Objects::of_list(1 << 20), &text, size).unwrap();
            prop_assert_eq!(found.iter().map(parse).collect::<Vec<_>>(), expected);
        }
    }
}
