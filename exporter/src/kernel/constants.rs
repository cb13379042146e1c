//! Sets the constants of the kernel program in its object, before it is loaded. Pure.

use sched_exporter_ebpf::Global;

/// Opcode of `mov` with an immediate, 64 bits wide.
/// <https://www.rfc-editor.org/rfc/rfc9669.html#name-arithmetic-and-jump-instruc>
const MOV_IMMEDIATE: u8 = 0xb7;

/// Writes the value of each constant over its placeholders; a constant without a value is 0. An instruction
/// has 8 bytes, and starts at a multiple of 8 in the file, as its section does.
///
/// Fails with the constants of which the object has no placeholder.
pub(super) fn set(object: &mut [u8], values: &[(Global, u32)]) -> Result<(), Vec<Global>> {
    let mut missing = Global::ALL.to_vec();
    for instruction in object.as_chunks_mut::<8>().0 {
        let Some(constant) = placeholder(*instruction) else { continue };
        let value =
            values.iter().find(|(name, _)| *name == constant).map_or(0, |(_, value)| *value);
        instruction[4..].copy_from_slice(&value.to_le_bytes());
        missing.retain(|name| *name != constant);
    }
    if missing.is_empty() { Ok(()) } else { Err(missing) }
}

/// The constant whose placeholder this instruction is.
fn placeholder(instruction: [u8; 8]) -> Option<Global> {
    let [opcode, registers, 0, 0, immediate @ ..] = instruction else { return None };
    // The low half is the destination; the instruction has no source.
    let is_mov = opcode == MOV_IMMEDIATE && registers & 0xf0 == 0;
    let immediate = i32::from_le_bytes(immediate);
    Global::ALL.iter().copied().find(|constant| is_mov && constant.placeholder() == immediate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::attach::OBJECT;

    /// `mov r3, immediate`
    fn mov(immediate: i32) -> [u8; 8] {
        let [a, b, c, d] = immediate.to_le_bytes();
        [MOV_IMMEDIATE, 3, 0, 0, a, b, c, d]
    }

    #[test]
    fn values_replace_placeholders_and_nothing_else() {
        let mut object: Vec<_> = Global::ALL.iter().map(|it| mov(it.placeholder())).collect();
        let flags = Global::TaskFlags.placeholder();
        // The second use of a constant, another immediate, an addition, and a `mov` with a source.
        let [a, b, c, d] = flags.to_le_bytes();
        let others = [[0x07, 3, 0, 0, a, b, c, d], [MOV_IMMEDIATE, 0x13, 0, 0, a, b, c, d]];
        object.extend([mov(flags), mov(flags - 1)].into_iter().chain(others));
        let mut object = object.concat();
        set(&mut object, &[(Global::TaskFlags, 44), (Global::MeasureWaits, 1)]).unwrap();
        let constants = Global::ALL.iter().map(|constant| match constant {
            Global::TaskFlags => mov(44),
            Global::MeasureWaits => mov(1),
            _ => mov(0),
        });
        let unchanged = [mov(flags - 1)].into_iter().chain(others);
        let expected: Vec<_> = constants.chain([mov(44)]).chain(unchanged).collect();
        assert_eq!(object, expected.concat());
    }

    #[test]
    fn every_constant_must_be_found() {
        let mut object = mov(Global::TaskPrio.placeholder()).to_vec();
        let mut missing = Global::ALL.to_vec();
        missing.retain(|it| *it != Global::TaskPrio);
        assert_eq!(set(&mut object, &[]), Err(missing));
    }

    #[test]
    fn the_object_has_every_placeholder() {
        assert_eq!(set(&mut OBJECT.to_vec(), &[]), Ok(()));
    }
}
