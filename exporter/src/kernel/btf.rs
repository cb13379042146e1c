//! Reads the kernel's own type description (BTF, `/sys/kernel/btf/vmlinux`): where a member of a
//! structure lies, and how many parameters a tracepoint has. It takes bytes and returns values: it
//! opens no file, does not follow pointers, and knows nothing of enum values, bitfields or any
//! other part of the format that no caller needs.
//!
//! Format: <https://docs.kernel.org/bpf/btf.html> and
//! <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/btf.h>.

const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: u32 = 24;
const TYPE_LEN: u32 = 12;

/// BTF does not record the size of a pointer; the kernels we run on are all 64-bit.
const POINTER_LEN: u32 = 8;

/// Typedefs, qualifiers and array dimensions in a row. C code has a handful; a cycle has no end.
const MAX_CHAIN: usize = 32;

/// Members looked at for one name. A kernel structure has hundreds at most; anonymous members of a
/// hostile file can multiply without end.
const MAX_MEMBERS: usize = 65_536;

/// BTF whose header and type boundaries have been checked. It borrows the file's bytes.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where in `types` each type begins; type 1 is first, because type 0 is `void`.
    offsets: Vec<u32>,
}

impl<'a> Btf<'a> {
    /// Checks the header and finds where each type begins.
    ///
    /// Fails where the header is not that of BTF version 1 in this machine's byte order, where a
    /// section or a type does not fit, or where a type has an unknown kind: its size would be a
    /// guess, and every later type would be misread.
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

    /// Offset and size of a member of the first structure of that name.
    ///
    /// `path` is the member's name, or several joined by dots to reach into nested structures, as
    /// in `se.cfs_rq`. Anonymous structures and unions, typedefs and qualifiers are looked
    /// through; pointers are not followed.
    ///
    /// Returns `None` where there is no such structure or member. Fails where the member is a
    /// bitfield, and where the types on the way to it are malformed.
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

    /// Number of parameters of a tracepoint's probe, including the leading `void *`.
    ///
    /// The kernel describes each probe by a typedef `btf_trace_<tracepoint>`, which is a pointer
    /// to a prototype. Returns `None` where there is no such typedef. Fails where the typedef is
    /// of something else.
    pub fn tracepoint_params(&self, tracepoint: &str) -> Result<Option<usize>, BtfError> {
        let name = format!("btf_trace_{tracepoint}");
        let Some(typedef) = self.find(kind::TYPEDEF, &name)? else { return Ok(None) };
        let pointer = self.resolve(typedef.id)?.of_kind(kind::PTR, "a pointer")?;
        let target = self.resolve(pointer.size_or_id)?;
        let prototype = target.of_kind(kind::FUNC_PROTO, "a function prototype")?;
        Ok(Some(prototype.vlen as usize))
    }
}

/// Where a member lies in its structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Bytes from the start of the outermost structure.
    pub offset: u32,
    /// Bytes the member occupies; an array counts whole.
    pub size: u32,
}

/// Why BTF could not be read. Every variant names the place and the value found there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// There are fewer bytes than a header has.
    #[error("file of {len} bytes is shorter than a header of {HEADER_LEN}")]
    ShortHeader {
        /// Bytes in the file.
        len: usize,
    },
    /// The file was written for a machine of the other byte order.
    #[error("header magic is {:#06x}: the file has the other byte order", MAGIC.swap_bytes())]
    ByteOrder,
    /// The file is not BTF.
    #[error("header magic is {magic:#06x} and not {MAGIC:#06x}")]
    Magic {
        /// The first two bytes.
        magic: u16,
    },
    /// The file has a version or flags that did not exist when this was written.
    #[error("header has version {version} and flags {flags:#x}, and not version 1 without flags")]
    Version {
        /// Version in the header.
        version: u8,
        /// Flags in the header.
        flags: u8,
    },
    /// The header claims to be shorter than the fields it must have.
    #[error("header length is {len} and not at least {HEADER_LEN}")]
    HeaderLength {
        /// Length in the header.
        len: u32,
    },
    /// A section ends after the file does.
    #[error(
        "{section} section of {len} bytes at byte {offset} after the header ends beyond the file"
    )]
    Section {
        /// `type` or `string`.
        section: &'static str,
        /// Offset in the header, counted from the end of the header.
        offset: u32,
        /// Length in the header.
        len: u32,
    },
    /// The type section ends inside a type.
    #[error("type {type_id} at byte {at} of the type section is cut short")]
    TruncatedType {
        /// The type.
        type_id: u32,
        /// Where it begins.
        at: u32,
    },
    /// The size of a type is not known, so the types after it cannot be found either.
    #[error("type {type_id} at byte {at} of the type section has the unknown kind {kind}")]
    UnknownKind {
        /// The type.
        type_id: u32,
        /// Where it begins.
        at: u32,
        /// Its kind.
        kind: u32,
    },
    /// A type refers to one that the file does not have.
    #[error("type {type_id} is referred to, but the file has {types} types")]
    NoSuchType {
        /// The type that is missing.
        type_id: u32,
        /// How many types there are.
        types: usize,
    },
    /// A name lies outside the string section.
    #[error("name in type {type_id} is at byte {offset} of a string section of {len}")]
    Name {
        /// The type that has, or whose member has, the name.
        type_id: u32,
        /// Where the name should be.
        offset: u32,
        /// Length of the string section.
        len: usize,
    },
    /// Typedefs, qualifiers or array dimensions go on for so long that they must be a cycle.
    #[error("type {type_id} leads through more than {MAX_CHAIN} other types")]
    Chain {
        /// The type at the start of the chain.
        type_id: u32,
    },
    /// Anonymous members multiply, or contain themselves.
    #[error("search for member {member} of type {type_id} passed {MAX_MEMBERS} members")]
    Members {
        /// The structure or union that was searched.
        type_id: u32,
        /// The member searched for.
        member: String,
    },
    /// The member is a bitfield and has no offset and size in bytes.
    #[error("member {member} at bit {bit_offset} of type {type_id} is a bitfield")]
    Bitfield {
        /// The structure or union the member is in; an anonymous one has its own type.
        type_id: u32,
        /// The member.
        member: String,
        /// Where it begins in that type.
        bit_offset: u32,
    },
    /// An offset or a size is greater than 32 bits can hold.
    #[error("offset or size within type {type_id} exceeds 32 bits")]
    Overflow {
        /// The type that was being measured.
        type_id: u32,
    },
    /// A type is not what its use requires.
    #[error("type {type_id} is of kind {kind} and not {expected}")]
    UnexpectedKind {
        /// The type.
        type_id: u32,
        /// Its kind; 0 is `void`.
        kind: u32,
        /// What it should have been.
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

    /// Offset in bytes and type of one member, searching anonymous members as well.
    fn member(&self, of: Type<'a>, name: &str) -> Result<Option<(u32, Type<'a>)>, BtfError> {
        let overflow = || BtfError::Overflow { type_id: of.id };
        // A list instead of recursion, so that no file can exhaust the stack.
        let mut pending = vec![(of.id, 0_u32)];
        let mut budget = MAX_MEMBERS;
        while let Some((id, base)) = pending.pop() {
            let ty = self.resolve(id)?;
            if !matches!(ty.kind, kind::STRUCT | kind::UNION) {
                continue;
            }
            for [member_name, member_id, place] in records(ty.data) {
                budget = budget
                    .checked_sub(1)
                    .ok_or_else(|| BtfError::Members { type_id: of.id, member: name.to_owned() })?;
                let (bits, bit_offset) =
                    if ty.kind_flag { (place >> 24, place & 0x00ff_ffff) } else { (0, place) };
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

    /// The type behind any typedefs and qualifiers.
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

    /// Whether the string at `offset` is `name`. An empty name is that of no type or member.
    fn name_is(&self, type_id: u32, offset: u32, name: &str) -> Result<bool, BtfError> {
        let len = self.strings.len();
        let tail = self.strings.get(offset as usize..).filter(|tail| !tail.is_empty());
        let tail = tail.ok_or(BtfError::Name { type_id, offset, len })?;
        let rest = tail.strip_prefix(name.as_bytes());
        Ok(!name.is_empty() && rest.and_then(<[u8]>::first) == Some(&0))
    }
}

/// One type: the fields of `struct btf_type`, and the bytes of what follows it. The default is
/// `void`, which has no record.
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

    /// Whether this integer uses only some of its bits, which is how a bitfield is written in a
    /// structure without the kind flag.
    fn is_partial_int(&self) -> bool {
        let [encoding] = records(self.data).next().unwrap_or_default();
        let (first_bit, bits) = ((encoding >> 16) & 0xff, encoding & 0xff);
        self.kind == kind::INT && (first_bit != 0 || Some(bits) != self.size_or_id.checked_mul(8))
    }
}

/// The type and string sections, in that order.
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
    // A longer header is that of a newer kernel; its further fields describe further sections.
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
    // Newer kernels count in bits 16 to 23 and 29 to 30 as well; older ones leave them zero.
    // https://github.com/libbpf/libbpf/commit/9801e0297351f59544e4a6f2d0176e0a29896c8d
    let (kind, vlen) = ((info >> 24) & 0x7f, info & 0x00ff_ffff);
    // At most 12 times 24 bits, which fits.
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

/// The whole records of `WORDS` native 32-bit words in `bytes`.
fn records<const WORDS: usize>(bytes: &[u8]) -> impl Iterator<Item = [u32; WORDS]> {
    let words = bytes.as_chunks::<4>().0;
    words.as_chunks().0.iter().map(|record| record.map(u32::from_ne_bytes))
}

/// Kinds of type, numbered as `BTF_KIND_*`.
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
