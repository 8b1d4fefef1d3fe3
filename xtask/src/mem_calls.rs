//! Calls to `memset`, `memcpy` and `memmove` in a BPF object.
//!
//! bpf-linker keeps these three as functions in `.text` of every object, called or not, so their
//! symbols prove nothing: only call instructions count. Each is a loop byte by byte that the
//! verifier walks turn by turn.

use std::collections::HashMap;

use anyhow::{Context, Result};
use object::{
    Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SectionKind, SymbolKind,
};

const FORBIDDEN: [&str; 3] = ["memset", "memcpy", "memmove"];

const INSTRUCTION_SIZE: u64 = 8;
/// `BPF_JMP | BPF_CALL`
const CALL: u8 = 0x85;
/// Source register of a call from one BPF function to another.
const BPF_PSEUDO_CALL: u8 = 1;

/// Finds every call; each is described as "section `function` calls memset".
pub fn find(elf: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(elf).context("not an ELF object")?;
    let functions = Functions::of(&file);
    let mut found = Vec::new();
    for section in file
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
    {
        let relocations: HashMap<_, _> = section.relocations().collect();
        let code = section.data()?;
        for (offset, instruction) in (0..).step_by(8).zip(code.chunks_exact(8)) {
            if instruction[0] != CALL || instruction[1] >> 4 != BPF_PSEUDO_CALL {
                continue;
            }
            let imm = i32::from_le_bytes(instruction[4..8].try_into()?);
            // In units of instructions, counted from the one after the call.
            let distance = (i64::from(imm) + 1) * INSTRUCTION_SIZE as i64;
            let (target_section, base) = match relocations.get(&offset).map(|r| r.target()) {
                Some(RelocationTarget::Symbol(index)) => {
                    let symbol = file.symbol_by_index(index)?;
                    (symbol.section_index(), symbol.address())
                }
                _ => (Some(section.index()), offset),
            };
            let address = base.wrapping_add_signed(distance);
            let callee = target_section.and_then(|index| functions.at(index, address));
            let caller = functions.at(section.index(), offset).unwrap_or("?");
            // memmove may call memcpy.
            if let Some(callee) = callee.filter(|name| FORBIDDEN.contains(name))
                && !FORBIDDEN.contains(&caller)
            {
                found.push(format!("{} `{caller}` calls {callee}", section.name()?));
            }
        }
    }
    Ok(found)
}

struct Functions<'a>(Vec<(SectionIndex, std::ops::Range<u64>, &'a str)>);

impl<'a> Functions<'a> {
    fn of(file: &object::File<'a>) -> Self {
        let functions = file
            .symbols()
            .filter(|symbol| symbol.kind() == SymbolKind::Text);
        Self(
            functions
                .filter_map(|symbol| {
                    let range = symbol.address()..symbol.address() + symbol.size();
                    Some((symbol.section_index()?, range, symbol.name().ok()?))
                })
                .collect(),
        )
    }

    fn at(&self, section: SectionIndex, address: u64) -> Option<&'a str> {
        let holds = |range: &std::ops::Range<u64>| range.contains(&address);
        self.0
            .iter()
            .find(|(index, range, _)| *index == section && holds(range))
            .map(|f| f.2)
    }
}

#[cfg(test)]
mod tests {
    use object::{
        Architecture, BinaryFormat, Endianness, RelocationFlags, SymbolFlags, SymbolScope,
        elf::R_BPF_64_32,
        write::{self, Relocation, SectionId, Symbol, SymbolSection},
    };

    use super::*;

    const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];

    fn call(imm: i32) -> [u8; 8] {
        let [a, b, c, d] = imm.to_le_bytes();
        [CALL, BPF_PSEUDO_CALL << 4, 0, 0, a, b, c, d]
    }

    fn function(
        object: &mut write::Object<'_>,
        section: SectionId,
        name: &str,
        code: &[[u8; 8]],
    ) -> write::SymbolId {
        let value = object.append_section_data(section, &code.concat(), 8);
        object.add_symbol(Symbol {
            name: name.into(),
            value,
            size: code.len() as u64 * INSTRUCTION_SIZE,
            kind: SymbolKind::Text,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        })
    }

    /// `.text` with memset and an outlined function, `xdp` with a program of one call.
    fn object_with_calls(
        outlined: &[[u8; 8]],
        program: i32,
        link: impl FnOnce(&mut write::Object<'_>, SectionId, SectionId, write::SymbolId),
    ) -> Vec<u8> {
        let mut object =
            write::Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        let text = object.section_id(write::StandardSection::Text);
        let xdp = object.add_section(Vec::new(), b"xdp".to_vec(), SectionKind::Text);
        let memset = function(&mut object, text, "memset", &[EXIT, EXIT]);
        function(&mut object, text, "outlined", outlined);
        function(&mut object, xdp, "guard", &[call(program), EXIT]);
        link(&mut object, text, xdp, memset);
        object.write().expect("a small object")
    }

    fn relocate(object: &mut write::Object<'_>, section: SectionId, symbol: write::SymbolId) {
        let flags = RelocationFlags::Elf {
            r_type: R_BPF_64_32,
        };
        let relocation = Relocation {
            offset: 0,
            symbol,
            addend: 0,
            flags,
        };
        object
            .add_relocation(section, relocation)
            .expect("a BPF relocation");
    }

    #[test]
    fn memset_that_nobody_calls_is_no_finding() {
        let elf = object_with_calls(&[EXIT], 1, |object, text, xdp, _| {
            let section = object.section_symbol(text);
            relocate(object, xdp, section);
        });
        assert_eq!(find(&elf).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn call_through_the_symbol_is_found() {
        let elf = object_with_calls(&[EXIT], -1, |object, _, xdp, memset| {
            relocate(object, xdp, memset);
        });
        assert_eq!(find(&elf).unwrap(), ["xdp `guard` calls memset"]);
    }

    #[test]
    fn call_through_the_section_symbol_is_found() {
        let elf = object_with_calls(&[EXIT], -1, |object, text, xdp, _| {
            let section = object.section_symbol(text);
            relocate(object, xdp, section);
        });
        assert_eq!(find(&elf).unwrap(), ["xdp `guard` calls memset"]);
    }

    #[test]
    fn call_inside_the_section_without_relocation_is_found() {
        // `outlined` is the third instruction: memset lies three before the one after the call.
        let elf = object_with_calls(&[call(-3), EXIT], 1, |object, text, xdp, _| {
            let section = object.section_symbol(text);
            relocate(object, xdp, section);
        });
        assert_eq!(find(&elf).unwrap(), [".text `outlined` calls memset"]);
    }
}
