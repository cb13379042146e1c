//! Tests of `btf`, and of `layout` on top of it.

use sched_exporter_ebpf::Global;

use super::*;
use crate::kernel::layout::{DisabledFeatures, Hierarchy, Layout, LayoutError};

/// Builds BTF: each method adds one type and returns its id.
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

    /// Members are name, type and offset in bits.
    fn aggregate(
        &mut self,
        kind_info: u32,
        name: &str,
        size: u32,
        members: &[(&str, u32, u32)],
    ) -> u32 {
        let mut data = Vec::new();
        for &(name, id, offset) in members {
            data.extend([self.name(name), id, offset]);
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

/// A kernel with exactly what the exporter needs.
fn kernel() -> Vec<u8> {
    let mut b = Builder::default();
    let int = b.int("int", 4);
    let u64 = b.int("unsigned long long", 8);
    let rq = b.aggregate(kind::STRUCT, "rq", 16, &[("nr_running", int, 0), ("clock", u64, 64)]);
    let rq = b.refer(kind::PTR, "", rq);
    let cfs_rq = b.aggregate(kind::STRUCT, "cfs_rq", 16, &[("nr_running", int, 0), ("rq", rq, 64)]);
    let cfs_rq = b.refer(kind::PTR, "", cfs_rq);
    let entity =
        b.aggregate(kind::STRUCT, "sched_entity", 16, &[("on_rq", int, 0), ("cfs_rq", cfs_rq, 64)]);
    let info = b.aggregate(
        kind::STRUCT,
        "sched_info",
        16,
        &[("last_arrival", u64, 0), ("last_queued", u64, 64)],
    );
    let pointer = b.refer(kind::PTR, "", 0);
    let members = [
        ("__state", int, 0),
        ("flags", int, 32),
        ("prio", int, 64),
        ("policy", int, 96),
        ("se", entity, 128),
        ("sched_info", info, 256),
        ("cgroups", pointer, 384),
    ];
    b.aggregate(kind::STRUCT, "task_struct", 56, &members);
    let members = [("cgroup", pointer, 0), ("flags", int, 64), ("serial_nr", u64, 128)];
    let state = b.aggregate(kind::STRUCT, "cgroup_subsys_state", 24, &members);
    let members = [("self", state, 0), ("kn", pointer, 192), ("root", pointer, 256)];
    b.aggregate(kind::STRUCT, "cgroup", 40, &members);
    let states = b.array(pointer, 2);
    let members = [("subsys", states, 64), ("dfl_cgrp", pointer, 192)];
    b.aggregate(kind::STRUCT, "css_set", 32, &members);
    b.aggregate(kind::STRUCT, "kernfs_node", 8, &[("id", u64, 0)]);
    b.aggregate(kind::STRUCT, "cgroup_root", 8, &[("hierarchy_id", int, 32)]);
    let controllers = [b.name("cpuset_cgrp_id"), 0, b.name("cpu_cgrp_id"), 1];
    b.add(kind::ENUM, "cgroup_subsys_id", 2, 4, &controllers);
    let prototype = b.prototype(3);
    let probe = b.refer(kind::PTR, "", prototype);
    b.refer(kind::TYPEDEF, "btf_trace_cgroup_rmdir", probe);
    b.refer(kind::TYPEDEF, "btf_trace_cgroup_mkdir", probe);
    b.refer(kind::TYPEDEF, "btf_trace_cgroup_rename", probe);
    let prototype = b.prototype(5);
    let probe = b.refer(kind::PTR, "", prototype);
    b.refer(kind::TYPEDEF, "btf_trace_sched_switch", probe);
    b.build()
}

/// A small kernel with each kind of type at least once.
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
    let inner = b.aggregate(kind::STRUCT, "", 16, &[("deep", u64, 0), ("deeper", constant, 64)]);
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

/// Makes every call that callers make. Each must return; the results do not matter.
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
fn finds_offset_and_size_of_a_member() {
    check("pid", Some((0, 4)));
    check("color", Some((120, 4)));
    check("wide", Some((128, 8)));
    check("double", Some((136, 8)));
}

#[test]
fn dotted_path_reaches_into_nested_structures_through_typedefs() {
    check("sched_info", Some((24, 16)));
    check("sched_info.last", Some((32, 8)));
}

#[test]
fn searches_anonymous_structures_and_unions() {
    check("small", Some((8, 4)));
    check("deep", Some((8, 8)));
}

#[test]
fn typedefs_and_qualifiers_have_the_size_of_their_target() {
    check("deeper", Some((16, 8)));
}

#[test]
fn pointers_have_8_bytes_and_are_not_followed() {
    check("parent", Some((40, 8)));
    check("cgroups", Some((48, 8)));
    check("parent.pid", None);
}

#[test]
fn size_of_an_array_includes_all_elements() {
    check("comm", Some((56, 16)));
    check("matrix", Some((72, 48)));
}

#[test]
fn missing_members_and_structures_are_none() {
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
fn uses_the_first_structure_of_a_name_but_no_forward_declaration() {
    check("second", None);
    check("pid", Some((0, 4)));
}

#[test]
fn rejects_bitfields() {
    let error = field_in(&sample(), "on_cpu").unwrap_err();
    assert_eq!(error.to_string(), "member on_cpu at bit 32 of type 21 is a bitfield");
}

#[test]
fn rejects_bitfields_without_the_kind_flag() {
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
fn counts_tracepoint_parameters() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.tracepoint_params("sched_switch"), Ok(Some(5)));
    assert_eq!(btf.tracepoint_params("sched_wakeup"), Ok(None));
    let error = btf.tracepoint_params("not_a_probe").unwrap_err();
    assert_eq!(error.to_string(), "type 1, of kind 1, is not a pointer");
}

#[test]
fn counts_can_have_more_than_16_bits() {
    let mut b = Builder::default();
    let prototype = b.prototype(70_000);
    let probe = b.refer(kind::PTR, "", prototype);
    b.refer(kind::TYPEDEF, "btf_trace_sched_switch", probe);
    let bytes = b.build();
    let params = Btf::parse(&bytes).unwrap().tracepoint_params("sched_switch");
    assert_eq!(params, Ok(Some(70_000)));
}

#[test]
fn rejects_unknown_kinds() {
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
fn rejects_unsupported_headers() {
    let prelude = |magic: u16, version, flags| {
        let [a, b] = magic.to_ne_bytes();
        parse_error(&with_header_word(0, u32::from_ne_bytes([a, b, version, flags])))
    };
    assert_eq!(prelude(0x9feb, 1, 0), "header magic is 0x9feb: the file has the other byte order");
    assert_eq!(prelude(0x457f, 1, 0), "header magic is 0x457f, not 0xeb9f");
    assert_eq!(
        prelude(0xeb9f, 2, 1),
        "header has version 2 and flags 0x1, not version 1 without flags"
    );
    assert_eq!(parse_error(&[]), "file of 0 bytes is shorter than a header of 24");
    assert_eq!(parse_error(&with_header_word(1, 20)), "header length is 20, less than 24");
}

#[test]
fn skips_additional_header_fields() {
    let mut bytes = with_header_word(1, 32);
    bytes.splice(24..24, [0xff; 8]);
    assert_eq!(field_in(&bytes, "pid"), Ok(Some((0, 4))));
}

#[test]
fn rejects_sections_beyond_the_file() {
    for (word, section) in [(2, "type"), (3, "type"), (4, "string"), (5, "string")] {
        let error = parse_error(&with_header_word(word, u32::MAX));
        assert!(error.starts_with(&format!("{section} section of ")), "{error}");
    }
}

#[test]
fn rejects_a_file_truncated_at_any_byte() {
    let bytes = sample();
    for len in 0..bytes.len() {
        assert!(Btf::parse(&bytes[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn survives_a_section_truncated_at_any_byte() {
    for word in [3, 5] {
        for len in 0..2048 {
            exercise(&with_header_word(word, len));
        }
    }
}

#[test]
fn rejects_truncated_types() {
    let error = parse_error(&with_header_word(3, 15));
    assert_eq!(error, "type 1 at byte 0 of the type section is truncated");
}

#[test]
fn rejects_counts_beyond_the_section() {
    let mut b = Builder::default();
    b.add(kind::STRUCT, "task_struct", 0x00ff_ffff, 4, &[0, 0, 0]);
    assert_eq!(parse_error(&b.build()), "type 1 at byte 0 of the type section is truncated");
}

#[test]
fn rejects_cycles_of_typedefs() {
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
fn rejects_arrays_of_themselves() {
    let mut b = Builder::default();
    b.array(1, 1);
    b.aggregate(kind::STRUCT, "task_struct", 4, &[("pid", 1, 0)]);
    assert_eq!(field_in(&b.build(), "pid"), Err(BtfError::Chain { type_id: 1 }));
}

#[test]
fn rejects_anonymous_members_that_multiply_or_contain_themselves() {
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
fn rejects_references_to_missing_types() {
    let mut b = Builder::default();
    b.aggregate(kind::STRUCT, "task_struct", 4, &[("pid", 3, 0), ("nothing", 0, 0)]);
    let bytes = b.build();
    assert_eq!(
        field_in(&bytes, "pid").unwrap_err().to_string(),
        "type 3 is referenced, but the file has only 1 types"
    );
    assert_eq!(
        field_in(&bytes, "nothing").unwrap_err().to_string(),
        "type 0, of kind 0, is not a type that has a size"
    );
}

#[test]
fn rejects_names_outside_the_string_section() {
    let error = field_in(&with_header_word(5, 9), "pid").unwrap_err();
    assert!(matches!(error, BtfError::Name { len: 9, .. }), "{error}");
}

#[test]
fn rejects_offsets_and_sizes_beyond_32_bits() {
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

#[test]
fn complete_kernel_has_every_feature() {
    let bytes = kernel();
    let btf = Btf::parse(&bytes).unwrap();
    let layout = Layout::from_btf(&btf, DisabledFeatures::default(), Hierarchy::Unified).unwrap();
    assert_eq!((layout.no_removal_hook, layout.no_birth_hook), (None, None));
    assert_eq!(layout.cgroup_hooks, ["cgroup_rmdir", "cgroup_mkdir"]);
    assert!(layout.features.iter().all(|feature| feature.off.is_none()), "{:?}", layout.features);
    assert!(layout.globals.contains(&(Global::TaskLastQueued, 40)), "{:?}", layout.globals);
}

const LEGACY: Hierarchy = Hierarchy::Legacy { id: 4 };

#[test]
fn a_hierarchy_decides_where_the_cgroup_of_a_task_is() {
    let bytes = kernel();
    let btf = Btf::parse(&bytes).unwrap();
    for (hierarchy, id, css) in [(Hierarchy::Unified, 0, 24), (LEGACY, 4, 16)] {
        let layout = Layout::from_btf(&btf, DisabledFeatures::default(), hierarchy).unwrap();
        for expected in [
            (Global::HierarchyId, id),
            (Global::CssSetCss, css),
            (Global::CssSerial, 16),
            (Global::CgroupFlags, 8),
            (Global::CountCgroups, 1),
            (Global::HasRemovalHook, 1),
        ] {
            assert!(layout.globals.contains(&expected), "{expected:?}: {:?}", layout.globals);
        }
    }
    let bytes = kernel_without("cpu_cgrp_id");
    let btf = Btf::parse(&bytes).unwrap();
    let layout = Layout::from_btf(&btf, DisabledFeatures::default(), LEGACY).unwrap();
    let off = layout.features.into_iter().filter_map(|feature| feature.off).collect::<Vec<_>>();
    assert_eq!(off, ["this kernel's BTF has no cgroup_subsys_id.cpu_cgrp_id"]);
}

#[test]
fn without_the_hook_of_removals_cgroups_are_still_accounted_for() {
    let bytes = kernel_without("btf_trace_cgroup_rmdir");
    let btf = Btf::parse(&bytes).unwrap();
    let layout = Layout::from_btf(&btf, DisabledFeatures::default(), Hierarchy::default()).unwrap();
    let reason = "this kernel has no BTF tracepoint `cgroup_rmdir`";
    assert_eq!(layout.no_removal_hook.as_deref(), Some(reason));
    assert!(layout.features.iter().all(|feature| feature.off.is_none()), "{:?}", layout.features);
    assert!(layout.globals.contains(&(Global::HasRemovalHook, 0)), "{:?}", layout.globals);
}

#[test]
fn only_version_1_needs_the_hook_of_renames() {
    let layout = |without: &str, hierarchy| {
        let bytes = kernel_without(without);
        let btf = Btf::parse(&bytes).unwrap();
        let layout = Layout::from_btf(&btf, DisabledFeatures::default(), hierarchy).unwrap();
        (layout.cgroup_hooks, layout.no_birth_hook)
    };
    let missing = |hook| Some(format!("this kernel has no BTF tracepoint `{hook}`"));
    let all = vec!["cgroup_rmdir", "cgroup_mkdir", "cgroup_rename"];
    assert_eq!(layout("last_queued", LEGACY), (all.clone(), None));
    assert_eq!(layout("btf_trace_cgroup_rename", Hierarchy::Unified), (all[..2].into(), None));
    for hook in ["cgroup_mkdir", "cgroup_rename"] {
        let found = layout(&format!("btf_trace_{hook}"), LEGACY);
        assert_eq!(found, (all[..1].into(), missing(hook)));
    }
}

#[test]
fn enumerators_have_values() {
    let bytes = kernel();
    let btf = Btf::parse(&bytes).unwrap();
    let value = |name, enumerator| btf.enumerator(name, enumerator).unwrap();
    assert_eq!(value("cgroup_subsys_id", "cpu_cgrp_id"), Some(1));
    assert_eq!(value("cgroup_subsys_id", "cpu"), None);
    assert_eq!(value("subsys_id", "cpu_cgrp_id"), None);
}

/// A kernel in which this member has another name.
fn kernel_without(member: &str) -> Vec<u8> {
    let mut bytes = kernel();
    let name = format!("\0{member}\0");
    let at = bytes.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
    bytes[at + 1] = b'X';
    bytes
}

#[test]
fn missing_field_turns_its_feature_off_or_is_an_error() {
    let layout = |bytes: &[u8]| {
        let btf = Btf::parse(bytes).unwrap();
        Layout::from_btf(&btf, DisabledFeatures::default(), Hierarchy::default())
    };
    let reasons = |layout: Layout| layout.features.into_iter().map(|it| it.off).collect::<Vec<_>>();
    let without_waits = layout(&kernel_without("last_queued")).unwrap();
    assert!(without_waits.globals.contains(&(Global::MeasureWaits, 0)));
    assert!(without_waits.globals.contains(&(Global::CountSwitches, 1)));
    let reason = "this kernel's BTF has no task_struct.sched_info.last_queued";
    assert_eq!(reasons(without_waits), [None, Some(reason.to_owned()), None]);
    let error = layout(&kernel_without("flags")).unwrap_err();
    assert!(matches!(error, LayoutError::Field(_)), "{error}");
    assert_eq!(error.to_string(), "this kernel's BTF has no task_struct.flags");
}

/// Writes the seeds if `UPDATE_SEEDS` is set.
#[test]
fn seeds_of_the_fuzz_target_are_up_to_date() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/corpus/btf");
    for (name, bytes) in [("kernel", kernel()), ("kinds", sample())] {
        let seed = format!("{corpus}/{name}");
        if std::env::var_os("UPDATE_SEEDS").is_some() {
            std::fs::write(&seed, &bytes).unwrap();
        }
        assert!(std::fs::read(&seed).unwrap() == bytes, "{seed} is out of date");
    }
}
