//! Reads the kernel's own type description (BTF, `/sys/kernel/btf/vmlinux`): the offset and size of a
//! structure's member, and the number of a tracepoint's parameters. Pure: it takes bytes and opens no
//! file. It does not follow pointers, and skips every part of the format that no caller needs, such as
//! bitfields.
//!
//! Format: <https://docs.kernel.org/bpf/btf.html> and
//! <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/btf.h>.

const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: u32 = 24;
const TYPE_LEN: u32 = 12;

/// BTF does not record the size of pointers; all supported kernels are 64-bit.
const POINTER_LEN: u32 = 8;

/// Limit on typedefs, qualifiers and array dimensions in a row. C code has a handful; a cycle is
/// endless.
const MAX_CHAIN: usize = 32;

/// Limit on members searched for one name. A kernel structure has hundreds at most; the anonymous
/// members of a hostile file can multiply endlessly.
const MAX_MEMBERS: usize = 65_536;

/// BTF with a valid header and valid type boundaries. It borrows the file's bytes.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type starts in `types`; the first is type 1, because type 0 is `void`.
    offsets: Vec<u32>,
}

impl<'a> Btf<'a> {
    /// Checks the header and finds where each type starts.
    ///
    /// Fails if the header is not BTF version 1 in this machine's byte order, if a section or a type
    /// does not fit, or if a type has an unknown kind: its size is unknown, so every later type would be
    /// misread.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let (types, strings) = sections(bytes)?;
        let mut offsets = Vec::new();
        let mut at = 0;
        for type_id in 1.. {
            if at as usize >= types.len() {
                break;
            }
            offsets.push(at);
            at = read_type(types, type_id, at)?.end;
        }
        Ok(Self { types, strings, offsets })
    }

    /// Finds the offset and size of a member of the first structure with that name.
    ///
    /// `path` is the member's name, or several names joined by dots to reach into nested structures,
    /// as in `se.cfs_rq`. Sees through anonymous structures and unions, typedefs and qualifiers; does
    /// not follow pointers.
    ///
    /// Returns `None` if there is no such structure or member. Fails if the member is a bitfield, or if
    /// the types on the way to it are malformed.
    pub fn field(&self, structure: &str, path: &str) -> Result<Option<Field>, BtfError> {
        let Some(mut ty) = self.find(kind::STRUCT, structure)? else { return Ok(None) };
        let mut offset = 0_u32;
        for name in path.split('.') {
            let Some((member_offset, member_type)) = self.member(ty, name)? else {
                return Ok(None);
            };
            let sum = offset.checked_add(member_offset);
            offset = sum.ok_or(BtfError::Overflow { type_id: ty.id })?;
            ty = member_type;
        }
        Ok(Some(Field { offset, size: self.size(ty)? }))
    }

    /// Finds the value of an enumerator of the first enum with that name.
    ///
    /// Returns `None` if there is no such enum, or no such enumerator in it.
    pub fn enumerator(&self, name: &str, enumerator: &str) -> Result<Option<u32>, BtfError> {
        let Some(ty) = self.find(kind::ENUM, name)? else { return Ok(None) };
        for [member, value] in records(ty.data) {
            if self.name_is(ty.id, member, enumerator)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Counts the parameters of a tracepoint's probe, including the leading `void *`.
    ///
    /// The kernel describes each probe by a typedef `btf_trace_<tracepoint>` of a pointer to a
    /// prototype. Returns `None` if there is no such typedef. Fails if it is a typedef of something
    /// else.
    pub fn tracepoint_params(&self, tracepoint: &str) -> Result<Option<usize>, BtfError> {
        let name = format!("btf_trace_{tracepoint}");
        let Some(typedef) = self.find(kind::TYPEDEF, &name)? else { return Ok(None) };
        let pointer = self.resolve(typedef.id)?.of_kind(kind::PTR, "a pointer")?;
        let target = self.resolve(pointer.size_or_id)?;
        let prototype = target.of_kind(kind::FUNC_PROTO, "a function prototype")?;
        Ok(Some(prototype.vlen as usize))
    }
}

/// The location of a member in its structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Bytes from the start of the outermost structure.
    pub offset: u32,
    /// Size of the member in bytes; of an array, the size of all elements.
    pub size: u32,
}

/// The error when BTF is malformed or unsupported. Every variant names the position and the value found
/// there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// The file is shorter than a header.
    #[error("file of {len} bytes is shorter than a header of {HEADER_LEN}")]
    ShortHeader {
        /// Bytes in the file.
        len: usize,
    },
    /// The file was written for a machine with the other byte order.
    #[error("header magic is {:#06x}: the file has the other byte order", MAGIC.swap_bytes())]
    ByteOrder,
    /// The file is not BTF.
    #[error("header magic is {magic:#06x}, not {MAGIC:#06x}")]
    Magic {
        /// The first two bytes.
        magic: u16,
    },
    /// The file has an unsupported version or flags.
    #[error("header has version {version} and flags {flags:#x}, not version 1 without flags")]
    Version {
        /// Version in the header.
        version: u8,
        /// Flags in the header.
        flags: u8,
    },
    /// The header's length is less than that of its mandatory fields.
    #[error("header length is {len}, less than {HEADER_LEN}")]
    HeaderLength {
        /// Length in the header.
        len: u32,
    },
    /// A section ends beyond the file.
    #[error(
        "{section} section of {len} bytes at byte {offset} after the header ends beyond the file"
    )]
    Section {
        /// `type` or `string`.
        section: &'static str,
        /// Offset given in the header, counted from the header's end.
        offset: u32,
        /// Length in the header.
        len: u32,
    },
    /// The type section ends inside a type.
    #[error("type {type_id} at byte {at} of the type section is truncated")]
    TruncatedType {
        /// The type.
        type_id: u32,
        /// Where it starts, in bytes from the start of the section.
        at: u32,
    },
    /// A type has an unknown kind, hence an unknown size, so later types cannot be found.
    #[error("type {type_id} at byte {at} of the type section has the unknown kind {kind}")]
    UnknownKind {
        /// The type.
        type_id: u32,
        /// Where it starts, in bytes from the start of the section.
        at: u32,
        /// Its kind.
        kind: u32,
    },
    /// A type refers to a type that does not exist.
    #[error("type {type_id} is referenced, but the file has only {types} types")]
    NoSuchType {
        /// The missing type.
        type_id: u32,
        /// Number of types in the file.
        types: usize,
    },
    /// A name lies outside the string section.
    #[error("name in type {type_id} is at byte {offset}, beyond the string section of {len} bytes")]
    Name {
        /// The type with the name, or with the member of that name.
        type_id: u32,
        /// Offset of the name.
        offset: u32,
        /// Length of the string section.
        len: usize,
    },
    /// Too many typedefs, qualifiers or array dimensions in a row, probably a cycle.
    #[error("type {type_id} leads through more than {MAX_CHAIN} other types")]
    Chain {
        /// The type at the start of the chain.
        type_id: u32,
    },
    /// Anonymous members multiply or contain themselves.
    #[error("search for member {member} of type {type_id} exceeded {MAX_MEMBERS} members")]
    Members {
        /// The structure or union that was searched.
        type_id: u32,
        /// The member searched for.
        member: String,
    },
    /// The member is a bitfield, so it has no offset and size in bytes.
    #[error("member {member} at bit {bit_offset} of type {type_id} is a bitfield")]
    Bitfield {
        /// The innermost structure or union that contains the member, possibly anonymous.
        type_id: u32,
        /// The member.
        member: String,
        /// Where it starts in that type.
        bit_offset: u32,
    },
    /// An offset or a size exceeds 32 bits.
    #[error("offset or size within type {type_id} exceeds 32 bits")]
    Overflow {
        /// The type that was being measured.
        type_id: u32,
    },
    /// A type does not have the kind that its use requires.
    #[error("type {type_id}, of kind {kind}, is not {expected}")]
    UnexpectedKind {
        /// The type.
        type_id: u32,
        /// Its kind; 0 is `void`.
        kind: u32,
        /// What was required.
        expected: &'static str,
    },
}

impl<'a> Btf<'a> {
    fn find(&self, kind: u32, name: &str) -> Result<Option<Type<'a>>, BtfError> {
        for (id, &at) in (1..).zip(&self.offsets) {
            let ty = read_type(self.types, id, at)?;
            if ty.kind == kind && self.name_is(ty.id, ty.name, name)? {
                return Ok(Some(ty));
            }
        }
        Ok(None)
    }

    /// Finds a member by name, in anonymous members too. Returns its offset in bytes and its type.
    ///
    /// In `struct { int a; union { u64 b; u32 c; }; }`, the search for `c` passes `a`, puts the union on
    /// the list with its offset of 64 bits, and finds `c` in it at bit 0: at byte 8 of the structure.
    fn member(&self, of: Type<'a>, name: &str) -> Result<Option<(u32, Type<'a>)>, BtfError> {
        let overflow = || BtfError::Overflow { type_id: of.id };
        // A list, not recursion: no file can exhaust the stack.
        let mut pending = vec![(of.id, 0_u32)];
        let mut budget = MAX_MEMBERS;
        while let Some((id, base)) = pending.pop() {
            let ty = self.resolve(id)?;
            if !matches!(ty.kind, kind::STRUCT | kind::UNION) {
                continue;
            }
            for [member_name, member_id, packed_offset] in records(ty.data) {
                budget = budget
                    .checked_sub(1)
                    .ok_or_else(|| BtfError::Members { type_id: of.id, member: name.to_owned() })?;
                // With the kind flag, the high 8 bits hold the width of a bitfield, or 0.
                let (bits, bit_offset) = if ty.kind_flag {
                    (packed_offset >> 24, packed_offset & 0x00ff_ffff)
                } else {
                    (0, packed_offset)
                };
                if member_name == 0 {
                    pending.push((member_id, base.checked_add(bit_offset).ok_or_else(overflow)?));
                } else if self.name_is(ty.id, member_name, name)? {
                    let target = self.resolve(member_id)?;
                    let offset = base.checked_add(bit_offset).ok_or_else(overflow)?;
                    if bits != 0 || offset % 8 != 0 || target.is_partial_int() {
                        let member = name.to_owned();
                        return Err(BtfError::Bitfield { type_id: ty.id, member, bit_offset });
                    }
                    return Ok(Some((offset / 8, target)));
                }
            }
        }
        Ok(None)
    }

    fn size(&self, of: Type<'a>) -> Result<u32, BtfError> {
        let mut ty = of;
        let mut count = 1_u32;
        for _ in 0..MAX_CHAIN {
            let (size, element) = match ty.kind {
                kind::PTR => (POINTER_LEN, None),
                kind::INT
                | kind::STRUCT
                | kind::UNION
                | kind::ENUM
                | kind::ENUM64
                | kind::FLOAT => (ty.size_or_id, None),
                kind::ARRAY => {
                    let [element, _index, len] = records(ty.data).next().unwrap_or_default();
                    (len, Some(element))
                }
                _ => return Err(ty.unexpected("a type that has a size")),
            };
            count = count.checked_mul(size).ok_or(BtfError::Overflow { type_id: of.id })?;
            match element {
                Some(id) => ty = self.resolve(id)?,
                None => return Ok(count),
            }
        }
        Err(BtfError::Chain { type_id: of.id })
    }

    /// Resolves typedefs and qualifiers to the type behind them.
    fn resolve(&self, id: u32) -> Result<Type<'a>, BtfError> {
        let mut next = id;
        for _ in 0..MAX_CHAIN {
            let ty = self.type_by_id(next)?;
            match ty.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    next = ty.size_or_id;
                }
                _ => return Ok(ty),
            }
        }
        Err(BtfError::Chain { type_id: id })
    }

    fn type_by_id(&self, id: u32) -> Result<Type<'a>, BtfError> {
        let Some(index) = id.checked_sub(1) else { return Ok(Type::default()) };
        match self.offsets.get(index as usize) {
            Some(&at) => read_type(self.types, id, at),
            None => Err(BtfError::NoSuchType { type_id: id, types: self.offsets.len() }),
        }
    }

    /// Whether the string at `offset` is `name`. An empty `name` matches nothing.
    fn name_is(&self, type_id: u32, offset: u32, name: &str) -> Result<bool, BtfError> {
        let len = self.strings.len();
        let tail = self.strings.get(offset as usize..).filter(|tail| !tail.is_empty());
        let tail = tail.ok_or(BtfError::Name { type_id, offset, len })?;
        let rest = tail.strip_prefix(name.as_bytes());
        Ok(!name.is_empty() && rest.and_then(<[u8]>::first) == Some(&0))
    }
}

/// One type: the fields of `struct btf_type`, and the bytes that follow it. The default is `void`,
/// which has no record.
#[derive(Clone, Copy, Default)]
struct Type<'a> {
    id: u32,
    name: u32,
    kind: u32,
    kind_flag: bool,
    vlen: u32,
    size_or_id: u32,
    data: &'a [u8],
    end: u32,
}

impl Type<'_> {
    fn of_kind(self, kind: u32, expected: &'static str) -> Result<Self, BtfError> {
        if self.kind == kind { Ok(self) } else { Err(self.unexpected(expected)) }
    }

    fn unexpected(&self, expected: &'static str) -> BtfError {
        BtfError::UnexpectedKind { type_id: self.id, kind: self.kind, expected }
    }

    /// Whether this is an integer that uses only some of its bits: structures without the kind flag
    /// encode bitfields this way.
    fn is_partial_int(&self) -> bool {
        let [encoding] = records(self.data).next().unwrap_or_default();
        let (first_bit, bits) = ((encoding >> 16) & 0xff, encoding & 0xff);
        self.kind == kind::INT && (first_bit != 0 || Some(bits) != self.size_or_id.checked_mul(8))
    }
}

/// Checks the header and returns the type section and the string section.
fn sections(bytes: &[u8]) -> Result<(&[u8], &[u8]), BtfError> {
    let [prelude, header_len, type_offset, type_len, string_offset, string_len] =
        records(bytes).next().ok_or(BtfError::ShortHeader { len: bytes.len() })?;
    let [magic_0, magic_1, version, flags] = prelude.to_ne_bytes();
    let magic = u16::from_ne_bytes([magic_0, magic_1]);
    if magic == MAGIC.swap_bytes() {
        return Err(BtfError::ByteOrder);
    }
    if magic != MAGIC {
        return Err(BtfError::Magic { magic });
    }
    if version != 1 || flags != 0 {
        return Err(BtfError::Version { version, flags });
    }
    // Newer kernels have longer headers; the additional fields describe additional sections.
    if header_len < HEADER_LEN {
        return Err(BtfError::HeaderLength { len: header_len });
    }
    let section = |section, offset: u32, len: u32| {
        let body = bytes.get(header_len as usize..).and_then(|rest| rest.get(offset as usize..));
        let found = body.and_then(|rest| rest.get(..len as usize));
        found.ok_or(BtfError::Section { section, offset, len })
    };
    let types = section("type", type_offset, type_len)?;
    let strings = section("string", string_offset, string_len)?;
    Ok((types, strings))
}

fn read_type(types: &[u8], id: u32, at: u32) -> Result<Type<'_>, BtfError> {
    let truncated = || BtfError::TruncatedType { type_id: id, at };
    let rest = types.get(at as usize..).ok_or_else(truncated)?;
    let [name, info, size_or_id] = records(rest).next().ok_or_else(truncated)?;
    // Newer kernels also use bits 16 to 23 for the count and 29 to 30 for the kind; older kernels leave
    // them zero.
    // https://github.com/libbpf/libbpf/commit/9801e0297351f59544e4a6f2d0176e0a29896c8d
    let (kind, vlen) = ((info >> 24) & 0x7f, info & 0x00ff_ffff);
    // At most 12 times a 24-bit number, which fits.
    let data_len = match kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => vlen * 12,
        kind::ENUM | kind::FUNC_PROTO => vlen * 8,
        kind::PTR
        | kind::FWD
        | kind::TYPEDEF
        | kind::VOLATILE
        | kind::CONST
        | kind::RESTRICT
        | kind::FUNC
        | kind::FLOAT
        | kind::TYPE_TAG => 0,
        _ => return Err(BtfError::UnknownKind { type_id: id, at, kind }),
    };
    let len = TYPE_LEN + data_len;
    let data = rest.get(TYPE_LEN as usize..len as usize).ok_or_else(truncated)?;
    let end = at.checked_add(len).ok_or_else(truncated)?;
    Ok(Type { id, name, kind, kind_flag: info >> 31 == 1, vlen, size_or_id, data, end })
}

/// Splits `bytes` into records of `WORDS` native 32-bit words; drops an incomplete one at the end.
fn records<const WORDS: usize>(bytes: &[u8]) -> impl Iterator<Item = [u32; WORDS]> {
    let words = bytes.as_chunks::<4>().0;
    words.as_chunks().0.iter().map(|record| record.map(u32::from_ne_bytes))
}

/// The kinds of types: the kernel's `BTF_KIND_*`.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const PTR: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FWD: u32 = 7;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const FLOAT: u32 = 16;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

#[cfg(test)]
mod tests;
