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
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Writes BTF by hand: each method adds one type and returns its id.
    #[derive(Default)]
    struct Builder {
        types: Vec<u32>,
        strings: Vec<u8>,
        last_id: u32,
    }

    const KIND_FLAG: u32 = 1 << 31;

    impl Builder {
        fn name(&mut self, name: &str) -> u32 {
            if self.strings.is_empty() {
                self.strings.push(0);
            }
            if name.is_empty() {
                return 0;
            }
            let offset = u32::try_from(self.strings.len()).unwrap();
            self.strings.extend_from_slice(name.as_bytes());
            self.strings.push(0);
            offset
        }

        /// `kind_info` is the kind, with `KIND_FLAG` if wanted; `vlen` is added to it.
        fn add(
            &mut self,
            kind_info: u32,
            name: &str,
            vlen: usize,
            size_or_id: u32,
            data: &[u32],
        ) -> u32 {
            let name = self.name(name);
            let flag = kind_info & KIND_FLAG;
            let info = flag | (kind_info & !KIND_FLAG) << 24 | u32::try_from(vlen).unwrap();
            self.types.extend([name, info, size_or_id]);
            self.types.extend(data);
            self.last_id += 1;
            self.last_id
        }

        fn int(&mut self, name: &str, size: u32) -> u32 {
            self.add(kind::INT, name, 0, size, &[size * 8])
        }

        fn refer(&mut self, kind: u32, name: &str, to: u32) -> u32 {
            self.add(kind, name, 0, to, &[])
        }

        fn array(&mut self, element: u32, len: u32) -> u32 {
            self.add(kind::ARRAY, "", 0, 0, &[element, 1, len])
        }

        /// Members are name, type and place; the place is in bits.
        fn aggregate(
            &mut self,
            kind_info: u32,
            name: &str,
            size: u32,
            members: &[(&str, u32, u32)],
        ) -> u32 {
            let mut data = Vec::new();
            for &(name, id, place) in members {
                data.extend([self.name(name), id, place]);
            }
            self.add(kind_info, name, members.len(), size, &data)
        }

        fn prototype(&mut self, params: usize) -> u32 {
            self.add(kind::FUNC_PROTO, "", params, 0, &vec![0; params * 2])
        }

        fn build(&self) -> Vec<u8> {
            let type_len = u32::try_from(self.types.len() * 4).unwrap();
            let string_len = u32::try_from(self.strings.len()).unwrap();
            let mut bytes = MAGIC.to_ne_bytes().to_vec();
            bytes.extend([1, 0]);
            for word in [HEADER_LEN, 0, type_len, type_len, string_len].iter().chain(&self.types) {
                bytes.extend(word.to_ne_bytes());
            }
            bytes.extend(&self.strings);
            bytes
        }
    }

    /// A small kernel, with each kind of type at least once.
    fn sample() -> Vec<u8> {
        let mut b = Builder::default();
        let int = b.int("int", 4);
        let u64 = b.int("unsigned long long", 8);
        let typedef = b.refer(kind::TYPEDEF, "u64", u64);
        let volatile = b.refer(kind::VOLATILE, "", typedef);
        let constant = b.refer(kind::CONST, "", volatile);
        let forward = b.refer(kind::FWD, "task_struct", 0);
        let pointer = b.refer(kind::PTR, "", forward);
        let tag = b.refer(kind::TYPE_TAG, "rcu", forward);
        let tagged = b.refer(kind::PTR, "", tag);
        let restrict = b.refer(kind::RESTRICT, "", tagged);
        let byte = b.int("char", 1);
        let comm = b.array(byte, 16);
        let matrix = b.array(comm, 3);
        let color = b.add(kind::ENUM, "color", 1, 4, &[0, 7]);
        let wide = b.add(kind::ENUM64, "wide", 1, 8, &[0, 7, 7]);
        let double = b.add(kind::FLOAT, "double", 0, 8, &[]);
        let inner =
            b.aggregate(kind::STRUCT, "", 16, &[("deep", u64, 0), ("deeper", constant, 64)]);
        let either = b.aggregate(kind::UNION, "", 16, &[("small", int, 0), ("", inner, 0)]);
        let info =
            b.aggregate(kind::STRUCT, "sched_info", 16, &[("pcount", u64, 0), ("last", u64, 64)]);
        let info = b.refer(kind::TYPEDEF, "sched_info_t", info);
        b.aggregate(
            kind::STRUCT | KIND_FLAG,
            "task_struct",
            256,
            &[
                ("pid", int, 0),
                ("on_cpu", int, 1 << 24 | 32),
                ("", either, 64),
                ("sched_info", info, 192),
                ("parent", pointer, 320),
                ("cgroups", restrict, 384),
                ("comm", comm, 448),
                ("matrix", matrix, 576),
                ("color", color, 960),
                ("wide", wide, 1024),
                ("double", double, 1088),
            ],
        );
        b.aggregate(kind::STRUCT, "task_struct", 4, &[("second", int, 0)]);
        let prototype = b.prototype(5);
        let probe = b.refer(kind::PTR, "", prototype);
        b.refer(kind::TYPEDEF, "btf_trace_sched_switch", probe);
        b.refer(kind::TYPEDEF, "btf_trace_not_a_probe", int);
        b.refer(kind::FUNC, "schedule", prototype);
        let variable = b.add(kind::VAR, "runqueues", 0, int, &[1]);
        b.add(kind::DATASEC, ".data..percpu", 1, 4, &[variable, 0, 4]);
        b.add(kind::DECL_TAG, "tag", 0, variable, &[0]);
        b.build()
    }

    fn field_in(bytes: &[u8], path: &str) -> Result<Option<(u32, u32)>, BtfError> {
        let field = Btf::parse(bytes)?.field("task_struct", path)?;
        Ok(field.map(|field| (field.offset, field.size)))
    }

    fn check(path: &str, expected: Option<(u32, u32)>) {
        assert_eq!(field_in(&sample(), path), Ok(expected), "{path}");
    }

    /// Asks everything that callers ask; whatever comes of it, it must return.
    fn exercise(bytes: &[u8]) {
        let Ok(btf) = Btf::parse(bytes) else { return };
        for path in ["pid", "on_cpu", "deeper", "sched_info.last", "matrix", "cgroups", "double"] {
            let _ = btf.field("task_struct", path);
        }
        let _ = btf.tracepoint_params("sched_switch");
    }

    fn parse_error(bytes: &[u8]) -> String {
        Btf::parse(bytes).err().unwrap().to_string()
    }

    fn with_header_word(index: usize, word: u32) -> Vec<u8> {
        let mut bytes = sample();
        bytes[index * 4..][..4].copy_from_slice(&word.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_member_is_found_with_its_offset_and_size() {
        check("pid", Some((0, 4)));
        check("color", Some((120, 4)));
        check("wide", Some((128, 8)));
        check("double", Some((136, 8)));
    }

    #[test]
    fn a_dotted_path_reaches_through_a_typedef_into_a_nested_structure() {
        check("sched_info", Some((24, 16)));
        check("sched_info.last", Some((32, 8)));
    }

    #[test]
    fn anonymous_structures_and_unions_are_looked_through() {
        check("small", Some((8, 4)));
        check("deep", Some((8, 8)));
    }

    #[test]
    fn a_chain_of_typedef_and_qualifiers_has_the_size_of_its_end() {
        check("deeper", Some((16, 8)));
    }

    #[test]
    fn a_pointer_has_8_bytes_and_is_not_followed() {
        check("parent", Some((40, 8)));
        check("cgroups", Some((48, 8)));
        check("parent.pid", None);
    }

    #[test]
    fn an_array_counts_whole() {
        check("comm", Some((56, 16)));
        check("matrix", Some((72, 48)));
    }

    #[test]
    fn what_does_not_exist_is_none() {
        for path in ["state", "pi", "pidd", "pid.x", "sched_info.state", "", ".", "pid."] {
            check(path, None);
        }
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        for structure in ["rq", "task_struc", "task_structs", "int", ""] {
            assert_eq!(btf.field(structure, "pid"), Ok(None), "{structure}");
        }
    }

    #[test]
    fn the_first_structure_of_a_name_is_taken_and_a_forward_declaration_is_not() {
        check("second", None);
        check("pid", Some((0, 4)));
    }

    #[test]
    fn a_bitfield_is_an_error() {
        let error = field_in(&sample(), "on_cpu").unwrap_err();
        assert_eq!(error.to_string(), "member on_cpu at bit 32 of type 21 is a bitfield");
    }

    #[test]
    fn a_bitfield_without_the_kind_flag_is_an_error() {
        let mut b = Builder::default();
        let partial = b.add(kind::INT, "int", 0, 4, &[3]);
        let shifted = b.add(kind::INT, "int", 0, 4, &[8 << 16 | 32]);
        let int = b.int("int", 4);
        let members = [("partial", partial, 0), ("shifted", shifted, 0), ("odd", int, 33)];
        b.aggregate(kind::STRUCT, "task_struct", 16, &members);
        let bytes = b.build();
        for (member, _, bit_offset) in members {
            let expected = BtfError::Bitfield { type_id: 4, member: member.to_owned(), bit_offset };
            assert_eq!(field_in(&bytes, member), Err(expected));
        }
    }

    #[test]
    fn tracepoint_parameters_are_counted() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.tracepoint_params("sched_switch"), Ok(Some(5)));
        assert_eq!(btf.tracepoint_params("sched_wakeup"), Ok(None));
        let error = btf.tracepoint_params("not_a_probe").unwrap_err();
        assert_eq!(error.to_string(), "type 1 is of kind 1 and not a pointer");
    }

    #[test]
    fn a_count_may_have_more_than_16_bits() {
        let mut b = Builder::default();
        let prototype = b.prototype(70_000);
        let probe = b.refer(kind::PTR, "", prototype);
        b.refer(kind::TYPEDEF, "btf_trace_sched_switch", probe);
        let bytes = b.build();
        let params = Btf::parse(&bytes).unwrap().tracepoint_params("sched_switch");
        assert_eq!(params, Ok(Some(70_000)));
    }

    #[test]
    fn an_unknown_kind_is_an_error() {
        for unknown in [0, 20, 31, 127] {
            let mut b = Builder::default();
            b.int("int", 4);
            b.add(unknown, "", 0, 0, &[]);
            b.int("int", 4);
            assert_eq!(
                parse_error(&b.build()),
                format!("type 2 at byte 16 of the type section has the unknown kind {unknown}")
            );
        }
    }

    #[test]
    fn a_header_that_is_not_ours_is_an_error() {
        let prelude = |magic: u16, version, flags| {
            let [a, b] = magic.to_ne_bytes();
            parse_error(&with_header_word(0, u32::from_ne_bytes([a, b, version, flags])))
        };
        assert_eq!(
            prelude(0x9feb, 1, 0),
            "header magic is 0x9feb: the file has the other byte order"
        );
        assert_eq!(prelude(0x457f, 1, 0), "header magic is 0x457f and not 0xeb9f");
        assert_eq!(
            prelude(0xeb9f, 2, 1),
            "header has version 2 and flags 0x1, and not version 1 without flags"
        );
        assert_eq!(parse_error(&[]), "file of 0 bytes is shorter than a header of 24");
        assert_eq!(
            parse_error(&with_header_word(1, 20)),
            "header length is 20 and not at least 24"
        );
    }

    #[test]
    fn a_longer_header_is_skipped() {
        let mut bytes = with_header_word(1, 32);
        bytes.splice(24..24, [0xff; 8]);
        assert_eq!(field_in(&bytes, "pid"), Ok(Some((0, 4))));
    }

    #[test]
    fn a_section_beyond_the_file_is_an_error() {
        for (word, section) in [(2, "type"), (3, "type"), (4, "string"), (5, "string")] {
            let error = parse_error(&with_header_word(word, u32::MAX));
            assert!(error.starts_with(&format!("{section} section of ")), "{error}");
        }
    }

    #[test]
    fn a_file_cut_at_any_byte_is_an_error() {
        let bytes = sample();
        for len in 0..bytes.len() {
            assert!(Btf::parse(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_section_cut_at_any_byte_is_survived() {
        for word in [3, 5] {
            for len in 0..2048 {
                exercise(&with_header_word(word, len));
            }
        }
    }

    #[test]
    fn a_type_that_is_cut_short_is_an_error() {
        let error = parse_error(&with_header_word(3, 15));
        assert_eq!(error, "type 1 at byte 0 of the type section is cut short");
    }

    #[test]
    fn a_count_that_exceeds_the_section_is_an_error() {
        let mut b = Builder::default();
        b.add(kind::STRUCT, "task_struct", 0x00ff_ffff, 4, &[0, 0, 0]);
        assert_eq!(parse_error(&b.build()), "type 1 at byte 0 of the type section is cut short");
    }

    #[test]
    fn a_cycle_of_typedefs_is_an_error() {
        let mut b = Builder::default();
        b.refer(kind::TYPEDEF, "btf_trace_sched_switch", 2);
        b.refer(kind::CONST, "", 1);
        b.aggregate(kind::STRUCT, "task_struct", 4, &[("pid", 2, 0)]);
        let bytes = b.build();
        let expected = "leads through more than 32 other types";
        let error = field_in(&bytes, "pid").unwrap_err();
        assert_eq!(error.to_string(), format!("type 2 {expected}"));
        let error = Btf::parse(&bytes).unwrap().tracepoint_params("sched_switch").unwrap_err();
        assert_eq!(error.to_string(), format!("type 1 {expected}"));
    }

    #[test]
    fn an_array_of_itself_is_an_error() {
        let mut b = Builder::default();
        b.array(1, 1);
        b.aggregate(kind::STRUCT, "task_struct", 4, &[("pid", 1, 0)]);
        assert_eq!(field_in(&b.build(), "pid"), Err(BtfError::Chain { type_id: 1 }));
    }

    #[test]
    fn anonymous_members_that_multiply_or_contain_themselves_are_an_error() {
        let expected = BtfError::Members { type_id: 1, member: "pid".to_owned() };
        for (levels, shift) in [(1, 0), (64, 1)] {
            let mut b = Builder::default();
            for level in 1..=levels {
                let next = level + shift;
                b.aggregate(kind::STRUCT, "task_struct", 4, &[("", next, 0), ("", next, 0)]);
            }
            b.int("int", 4);
            assert_eq!(field_in(&b.build(), "pid").as_ref(), Err(&expected), "{levels} levels");
        }
    }

    #[test]
    fn a_reference_to_nowhere_is_an_error() {
        let mut b = Builder::default();
        b.aggregate(kind::STRUCT, "task_struct", 4, &[("pid", 3, 0), ("nothing", 0, 0)]);
        let bytes = b.build();
        assert_eq!(
            field_in(&bytes, "pid").unwrap_err().to_string(),
            "type 3 is referred to, but the file has 1 types"
        );
        assert_eq!(
            field_in(&bytes, "nothing").unwrap_err().to_string(),
            "type 0 is of kind 0 and not a type that has a size"
        );
    }

    #[test]
    fn a_name_outside_the_strings_is_an_error() {
        let error = field_in(&with_header_word(5, 9), "pid").unwrap_err();
        assert!(matches!(error, BtfError::Name { len: 9, .. }), "{error}");
    }

    #[test]
    fn an_offset_or_size_beyond_32_bits_is_an_error() {
        let mut b = Builder::default();
        let byte = b.int("char", 1);
        let row = b.array(byte, 1 << 31);
        let array = b.array(row, 2);
        let inner = b.aggregate(kind::STRUCT, "", 1, &[("far", byte, 8)]);
        let members = [("array", array, 0), ("", inner, u32::MAX - 7)];
        b.aggregate(kind::STRUCT, "task_struct", 1, &members);
        let bytes = b.build();
        assert_eq!(field_in(&bytes, "array"), Err(BtfError::Overflow { type_id: array }));
        assert_eq!(field_in(&bytes, "far"), Err(BtfError::Overflow { type_id: 5 }));
    }

    #[test]
    fn reads_the_running_kernel() {
        let bytes = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
        let btf = Btf::parse(&bytes).unwrap();
        let field = |structure, path| btf.field(structure, path).unwrap().unwrap();
        assert_eq!(field("task_struct", "pid").size, 4);
        assert_eq!(field("task_struct", "comm").size, 16);
        assert_eq!(field("task_struct", "se.cfs_rq").size, 8);
        assert_eq!(field("task_struct", "sched_info.last_queued").size, 8);
        assert_eq!(field("list_head", "prev"), Field { offset: 8, size: 8 });
        assert_eq!(btf.field("task_struct", "no_such_member"), Ok(None));
        let bitfield = btf.field("task_struct", "sched_reset_on_fork");
        assert!(matches!(bitfield, Err(BtfError::Bitfield { .. })), "{bitfield:?}");
        assert!(matches!(btf.tracepoint_params("sched_switch"), Ok(Some(4 | 5))));
        assert_eq!(btf.tracepoint_params("sched_wakeup"), Ok(Some(2)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_damaged_file_never_panics(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut bytes = sample();
            for (index, byte) in damage {
                let len = bytes.len();
                bytes[index.index(len)] = byte;
            }
            if let Some(index) = cut {
                bytes.truncate(index.index(bytes.len()));
            }
            exercise(&bytes);
        }

        #[test]
        fn types_that_refer_anywhere_never_panic(
            damage in prop::collection::vec((any::<prop::sample::Index>(), 0_u32..48), 1..16),
        ) {
            let mut bytes = sample();
            let words = (bytes.len() - HEADER_LEN as usize) / 4;
            for (index, word) in damage {
                let at = HEADER_LEN as usize + index.index(words) * 4;
                bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
            }
            exercise(&bytes);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            exercise(&bytes);
        }

        #[test]
        fn arbitrary_types_never_panic(types in prop::collection::vec(any::<u32>(), 0..128)) {
            exercise(&Builder { types, strings: b"\0task_struct\0pid\0".to_vec(), last_id: 0 }.build());
        }
    }
}
