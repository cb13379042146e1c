//! Turns the linker's output into the committed BPF object: removes debug sections and rejects code that
//! the kernel would refuse. A pure function of bytes.

use anyhow::{Result, bail};
use object::{
    build::elf::{Builder, SectionData},
    elf::{SHT_STRTAB, STT_FUNC},
};

/// The only functions allowed in `.text`: LLVM calls them to copy memory.
const MEMORY_FUNCTIONS: [&[u8]; 3] = [b"memcpy", b"memmove", b"memset"];

/// The functions that are called on purpose, by the last parts of their path, as symbols write them.
const SUBPROGRAMS: [&[u8]; 1] = [b"7cgroups9find_slot"];

/// Strips a linked object. Programs, maps, symbols, relocations and BTF with its line numbers stay.
///
/// Fails if a panic is reachable, or if a function was not inlined into its program that should be.
pub(crate) fn finish(linked: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(linked)?;
    check_calls(&elf)?;

    for section in &mut elf.sections {
        section.delete =
            section.name.starts_with(b".debug") || section.name.starts_with(b".rel.debug");
    }
    // LLVM keeps the names of sections and symbols in one table, `object` needs two.
    let names = elf.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;

    let mut stripped = Vec::new();
    elf.write(&mut stripped)?;
    Ok(stripped)
}

fn check_calls(elf: &Builder<'_>) -> Result<()> {
    let is_called = |name: &[u8]| SUBPROGRAMS.iter().any(|path| contains(name, path));
    for symbol in &elf.symbols {
        let name: &[u8] = &symbol.name;
        if contains(name, b"panic") {
            bail!("a panic is reachable: symbol `{}`", symbol.name);
        }
        let in_text = symbol.section.is_some_and(|id| &*elf.sections.get(id).name == b".text");
        let is_allowed = MEMORY_FUNCTIONS.contains(&name) || is_called(name);
        if in_text && symbol.st_type() == STT_FUNC && !is_allowed {
            bail!("function `{}` was not inlined into its program", symbol.name);
        }
    }
    for section in &elf.sections {
        if section.name.starts_with(b".text.unlikely") {
            bail!(
                "section `{}` holds code that the compiler takes for a path to a panic",
                section.name
            );
        }
    }
    Ok(())
}

fn contains(name: &[u8], part: &[u8]) -> bool {
    name.windows(part.len()).any(|window| window == part)
}
