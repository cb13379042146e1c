//! Reads protobuf messages of which only a few fields matter. Nothing is allocated for a field, so a message
//! costs no more than its bytes: <https://protobuf.dev/programming-guides/encoding/>.

use std::mem;

/// The error when bytes are not a protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a protobuf message that is cut off")]
    Truncated,
    #[error("a protobuf number of more than 64 bits")]
    Varint,
    #[error("a protobuf field without a number")]
    Number,
    #[error("a protobuf field of an unknown type")]
    WireType,
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'m> {
    Varint(u64),
    /// A string, bytes, a message, or packed numbers.
    Bytes(&'m [u8]),
    /// 32 or 64 bits, in no field that is used here.
    Fixed,
}

/// Iterates over the fields of a message: number and value. Ends with the first error.
#[derive(Clone, Debug)]
pub(super) struct Fields<'m>(&'m [u8]);

impl<'m> Fields<'m> {
    pub(super) const fn of(message: &'m [u8]) -> Self {
        Self(message)
    }

    fn field(&mut self) -> Result<(u64, Value<'m>), Malformed> {
        let tag = Tag::read(&mut self.0)?.ok_or(Malformed::Truncated)?;
        let value = match tag.content {
            Content::Varint => Value::Varint(varint(&mut self.0)?.ok_or(Malformed::Truncated)?),
            Content::Fixed(length) => self.take(length).map(|_| Value::Fixed)?,
            Content::Bytes(length) => Value::Bytes(self.take(length)?),
        };
        Ok((tag.number, value))
    }

    fn take(&mut self, length: u64) -> Result<&'m [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_large| Malformed::Truncated)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }
}

impl<'m> Iterator for Fields<'m> {
    type Item = Result<(u64, Value<'m>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// The last value of a field of strings or bytes; `before` if there is none.
pub(super) fn last<'m>(
    message: &'m [u8],
    number: u64,
    before: &'m [u8],
) -> Result<&'m [u8], Malformed> {
    let mut last = before;
    for field in Fields::of(message) {
        match field? {
            (found, Value::Bytes(bytes)) if found == number => last = bytes,
            _ => {}
        }
    }
    Ok(last)
}

/// What follows a field's tag.
enum Content {
    Varint,
    /// This many bytes of a number.
    Fixed(u64),
    /// This many bytes.
    Bytes(u64),
}

/// A field's number and type, with the length if it has one.
struct Tag {
    number: u64,
    content: Content,
}

impl Tag {
    /// Reads a tag from the beginning of `bytes`. `None` if it is cut off; then `bytes` stays as it is.
    fn read(bytes: &mut &[u8]) -> Result<Option<Self>, Malformed> {
        let mut rest = *bytes;
        let Some(tag) = varint(&mut rest)? else { return Ok(None) };
        let content = match tag & 7 {
            0 => Content::Varint,
            1 => Content::Fixed(8),
            2 => match varint(&mut rest)? {
                Some(length) => Content::Bytes(length),
                None => return Ok(None),
            },
            5 => Content::Fixed(4),
            // Groups, 3 and 4, are not in proto3.
            _ => return Err(Malformed::WireType),
        };
        let number = tag >> 3;
        if number == 0 {
            return Err(Malformed::Number);
        }
        *bytes = rest;
        Ok(Some(Self { number, content }))
    }
}

/// Reads a number from the beginning of `bytes`. `None` if it is cut off; then `bytes` stays as it is.
fn varint(bytes: &mut &[u8]) -> Result<Option<u64>, Malformed> {
    const MAX_BYTES: usize = 10;
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate().take(MAX_BYTES) {
        let bits = u64::from(byte & 0x7f);
        if at == MAX_BYTES - 1 && *byte > 1 {
            return Err(Malformed::Varint);
        }
        number |= bits << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// Splits a message that arrives in pieces into the messages of its repeated field 1, so that only one of them
/// is in memory at a time. Other fields are skipped.
#[derive(Debug)]
pub(super) struct Items {
    max_bytes: usize,
    state: State,
    /// The beginning of a tag or an item.
    pending: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Tag,
    Varint,
    /// An item of this length.
    Item(usize),
    /// This many more bytes are not needed.
    Skip(u64),
}

impl Items {
    /// Items of more than `max_bytes` are skipped.
    pub(super) const fn new(max_bytes: usize) -> Self {
        Self { max_bytes, state: State::Tag, pending: Vec::new() }
    }

    /// Takes the next piece of the message, and passes the items that it completes to `each`.
    pub(super) fn push(
        &mut self,
        mut piece: &[u8],
        each: &mut impl FnMut(&[u8]) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        while !piece.is_empty() {
            match self.state {
                State::Tag => self.tag(&mut piece)?,
                State::Varint => self.varint(&mut piece)?,
                State::Item(length) => self.item(length, &mut piece, each)?,
                State::Skip(left) => {
                    let skipped = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                    piece = &piece[skipped..];
                    self.skip(left - skipped as u64);
                }
            }
            // An empty item needs no further bytes.
            if let State::Item(0) = self.state {
                each(&[])?;
                self.state = State::Tag;
            }
        }
        Ok(())
    }

    /// Checks that the message is complete.
    pub(super) fn end(&self) -> Result<(), Malformed> {
        match self.state {
            State::Tag if self.pending.is_empty() => Ok(()),
            _ => Err(Malformed::Truncated),
        }
    }

    /// Reads bytes one by one until they form a tag: at most two numbers.
    fn tag(&mut self, piece: &mut &[u8]) -> Result<(), Malformed> {
        let Some(tag) = self.complete(piece, Tag::read)? else { return Ok(()) };
        match tag {
            Tag { content: Content::Varint, .. } => self.state = State::Varint,
            Tag { number: 1, content: Content::Bytes(length) } => {
                self.state = match usize::try_from(length) {
                    Ok(length) if length <= self.max_bytes => State::Item(length),
                    _ => State::Skip(length),
                };
            }
            Tag { content: Content::Fixed(length) | Content::Bytes(length), .. } => {
                self.skip(length);
            }
        }
        Ok(())
    }

    fn varint(&mut self, piece: &mut &[u8]) -> Result<(), Malformed> {
        if self.complete(piece, varint)?.is_some() {
            self.state = State::Tag;
        }
        Ok(())
    }

    /// Takes bytes until `read` succeeds on them.
    fn complete<T>(
        &mut self,
        piece: &mut &[u8],
        read: impl Fn(&mut &[u8]) -> Result<Option<T>, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        while let Some((byte, rest)) = piece.split_first() {
            self.pending.push(*byte);
            *piece = rest;
            if let Some(result) = read(&mut self.pending.as_slice())? {
                self.pending.clear();
                return Ok(Some(result));
            }
        }
        Ok(None)
    }

    fn item(
        &mut self,
        length: usize,
        piece: &mut &[u8],
        each: &mut impl FnMut(&[u8]) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let missing = length - self.pending.len();
        let (taken, rest) = piece.split_at(missing.min(piece.len()));
        *piece = rest;
        if taken.len() < missing {
            self.pending.extend_from_slice(taken);
            return Ok(());
        }
        self.state = State::Tag;
        if self.pending.is_empty() {
            return each(taken);
        }
        self.pending.extend_from_slice(taken);
        let item = mem::take(&mut self.pending);
        each(&item)
    }

    const fn skip(&mut self, left: u64) {
        self.state = if left == 0 { State::Tag } else { State::Skip(left) };
    }
}

#[cfg(test)]
pub(super) mod encode {
    /// A number.
    pub(in super::super) fn varint(mut number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while number > 0x7f {
            bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
            number >>= 7;
        }
        bytes.push(u8::try_from(number).unwrap());
        bytes
    }

    /// A field with a number.
    pub(in super::super) fn number(field: u64, number: u64) -> Vec<u8> {
        [varint(field << 3), varint(number)].concat()
    }

    /// A field with a string, bytes or a message.
    pub(in super::super) fn bytes(field: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
        let content = content.as_ref();
        [&varint(field << 3 | 2), &varint(content.len() as u64), content].concat()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const MAX: usize = 100;

    /// A field of a message.
    #[derive(Clone, Debug)]
    enum Field {
        Varint(u64),
        Bytes(Vec<u8>),
        Fixed32([u8; 4]),
        Fixed64([u8; 8]),
    }

    fn encoded(number: u64, field: &Field) -> Vec<u8> {
        match field {
            Field::Varint(value) => encode::number(number, *value),
            Field::Bytes(bytes) => encode::bytes(number, bytes),
            Field::Fixed32(bytes) => [&encode::varint(number << 3 | 5), &bytes[..]].concat(),
            Field::Fixed64(bytes) => [&encode::varint(number << 3 | 1), &bytes[..]].concat(),
        }
    }

    fn field() -> impl Strategy<Value = (u64, Field)> {
        let field = prop_oneof![
            any::<u64>().prop_map(Field::Varint),
            (0u64..300).prop_map(Field::Varint),
            vec(any::<u8>(), 0..2 * MAX).prop_map(Field::Bytes),
            any::<[u8; 4]>().prop_map(Field::Fixed32),
            any::<[u8; 8]>().prop_map(Field::Fixed64),
        ];
        (prop_oneof![1u64..4, 1u64..1 << 29], field)
    }

    fn message(fields: &[(u64, Field)]) -> Vec<u8> {
        fields.iter().flat_map(|(number, field)| encoded(*number, field)).collect()
    }

    /// Splits a message in pieces of at most `size` bytes.
    fn split(message: &[u8], size: usize) -> Result<Vec<Vec<u8>>, Malformed> {
        let mut items = Items::new(MAX);
        let mut found = Vec::new();
        for piece in message.chunks(size) {
            items.push(piece, &mut |item| {
                found.push(item.to_vec());
                Ok(())
            })?;
            assert!(items.pending.capacity() <= 2 * MAX, "{}", items.pending.capacity());
        }
        items.end()?;
        Ok(found)
    }

    #[test]
    fn malformed_messages_are_errors() {
        let longest = [&[0xff; 9][..], &[1]].concat();
        for (message, error) in [
            (&[0x0a][..], Malformed::Truncated),
            (&[0x0a, 2, 0], Malformed::Truncated),
            (&[0x08], Malformed::Truncated),
            (&[0x08, 0x80], Malformed::Truncated),
            (&[0x0d, 0, 0, 0], Malformed::Truncated),
            (&[0x09, 0, 0, 0, 0, 0, 0, 0], Malformed::Truncated),
            // A length of 2^64 - 1.
            (&[&[0x12][..], &longest].concat(), Malformed::Truncated),
            (&[&[0x0a][..], &longest].concat(), Malformed::Truncated),
            (&[&[0x08][..], &[0xff; 9], &[2]].concat(), Malformed::Varint),
            (&[&[0x08][..], &[0x80; 11]].concat(), Malformed::Varint),
            (&[0x00], Malformed::Number),
            (&[0x02, 0], Malformed::Number),
            (&[0x0b], Malformed::WireType),
            (&[0x0c], Malformed::WireType),
            (&[0x0f], Malformed::WireType),
        ] {
            let fields: Result<Vec<_>, _> = Fields::of(message).collect();
            assert_eq!(fields, Err(error), "{message:x?}");
            for size in 1..=message.len() {
                assert_eq!(split(message, size), Err(error), "{message:x?} by {size}");
            }
        }
        let longest = [&[0x08][..], &longest].concat();
        let fields: Vec<_> = Fields::of(&longest).collect();
        assert_eq!(fields, [Ok((1, Value::Varint(u64::MAX)))]);
    }

    #[test]
    fn the_last_value_of_a_field_counts() {
        let message =
            [encode::bytes(1, "a"), encode::bytes(2, "b"), encode::bytes(1, "c")].concat();
        assert_eq!(last(&message, 1, b"x"), Ok(&b"c"[..]));
        assert_eq!(last(&message, 2, b"x"), Ok(&b"b"[..]));
        assert_eq!(last(&message, 3, b"x"), Ok(&b"x"[..]));
        assert_eq!(last(&[0x0a], 3, b"x"), Err(Malformed::Truncated));
    }

    proptest! {
        #[test]
        fn fields_are_those_that_were_encoded(fields in vec(field(), 0..12)) {
            let expected: Vec<_> = fields
                .iter()
                .map(|(number, field)| {
                    let value = match field {
                        Field::Varint(value) => Value::Varint(*value),
                        Field::Bytes(bytes) => Value::Bytes(bytes),
                        Field::Fixed32(_) | Field::Fixed64(_) => Value::Fixed,
                    };
                    Ok((*number, value))
                })
                .collect();
            let message = message(&fields);
            prop_assert_eq!(Fields::of(&message).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn items_do_not_depend_on_pieces(fields in vec(field(), 0..12), size in 1usize..300) {
            let expected: Vec<_> = fields
                .iter()
                .filter_map(|(number, field)| match field {
                    Field::Bytes(bytes) if *number == 1 && bytes.len() <= MAX => Some(bytes.clone()),
                    _ => None,
                })
                .collect();
            prop_assert_eq!(split(&message(&fields), size), Ok(expected));
        }

        #[test]
        fn any_bytes_give_the_same_in_any_pieces(bytes in vec(any::<u8>(), 0..64), size in 1usize..9) {
            let whole = split(&bytes, bytes.len().max(1));
            prop_assert_eq!(split(&bytes, size), whole.clone());
            let fields: Result<Vec<_>, _> = Fields::of(&bytes).collect();
            prop_assert_eq!(fields.is_ok(), whole.is_ok());
        }
    }
}
