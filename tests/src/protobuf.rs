//! As much of protobuf's encoding as tests of container runtimes need.
//! <https://protobuf.dev/programming-guides/encoding/>

/// A message that is being written.
#[derive(Clone, Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// An empty message.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a number.
    #[must_use]
    pub fn number(mut self, field: u32, value: u64) -> Self {
        self.varint(u64::from(field) << 3);
        self.varint(value);
        self
    }

    /// Adds text, or bytes that should have been text.
    #[must_use]
    pub fn text(mut self, field: u32, value: impl AsRef<[u8]>) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.as_ref().len() as u64);
        self.0.extend_from_slice(value.as_ref());
        self
    }

    /// Adds a message.
    #[must_use]
    pub fn message(self, field: u32, value: &Self) -> Self {
        self.text(field, &value.0)
    }

    /// Adds entries of a map.
    #[must_use]
    pub fn map(self, field: u32, entries: &[(&str, impl AsRef<[u8]>)]) -> Self {
        entries.iter().fold(self, |message, (key, value)| {
            message.message(field, &Self::new().text(1, key).text(2, value))
        })
    }

    /// Its encoding.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }
}

/// The first text with this number in an encoded message.
#[track_caller]
pub fn text(mut message: &[u8], field: u32) -> String {
    loop {
        assert!(!message.is_empty(), "the message has no field {field}");
        let key = varint(&mut message);
        let value = match key & 7 {
            0 => {
                varint(&mut message);
                continue;
            }
            2 => {
                let length = usize::try_from(varint(&mut message)).unwrap();
                message.split_off(..length).unwrap()
            }
            other => panic!("wire type {other}"),
        };
        if key >> 3 == u64::from(field) {
            return String::from_utf8(value.to_vec()).unwrap();
        }
    }
}

fn varint(message: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *message.split_off_first().unwrap();
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}
