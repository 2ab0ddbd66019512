//! A look at a shared library before the dynamic linker gets it: the linker maps a truncated file without complaint,
//! and the process dies of SIGBUS on the first page that is not there.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Says what is wrong with the file, if it is no whole ELF library for this machine.
#[cfg(target_os = "linux")]
pub(crate) fn check(path: &Path) -> Result<(), String> {
    let mut file = File::open(path).map_err(|e| format!("cannot be opened: {e}"))?;
    let metadata = file.metadata().map_err(|e| format!("cannot be read: {e}"))?;
    if !metadata.is_file() {
        return Err("expected a shared library, found a folder or device; name the .so itself".into());
    }
    let size = metadata.len();
    let mut header = [0u8; 64];
    if file.read_exact(&mut header).is_err() || header[..4] != *b"\x7fELF" {
        return Err(format!(
            "no shared library: expected an ELF file, found {size} bytes of something else; name a plugin's .so"
        ));
    }
    if header[4] != 2 || header[5] != 1 {
        return Err("expected a 64-bit little-endian library".into());
    }
    let u16_at = |b: &[u8], at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
    let u64_at = |b: &[u8], at: usize| b[at..at + 8].iter().rev().fold(0u64, |n, &x| n << 8 | u64::from(x));
    const SHARED_OBJECT: u16 = 3;
    if u16_at(&header, 16) != SHARED_OBJECT {
        return Err(format!(
            "expected a shared library (ELF type 3), found ELF type {}; a plugin is a crate of type cdylib",
            u16_at(&header, 16)
        ));
    }
    let machine = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    if u16_at(&header, 18) != machine {
        return Err(format!(
            "built for another processor: expected ELF machine {machine}, found {}",
            u16_at(&header, 18)
        ));
    }
    let truncated = |what: &str, end: Option<u64>| match end {
        Some(end) if end <= size => Ok(()),
        _ => Err(format!("truncated or corrupted: {what} ends beyond the file's {size} bytes; build or copy it again")),
    };
    let (table, entry, count) = (u64_at(&header, 32), u64::from(u16_at(&header, 54)), u64::from(u16_at(&header, 56)));
    if entry < 56 || count == 0 {
        return Err("corrupted: it has no program headers".into());
    }
    truncated("the program header table", table.checked_add(entry * count))?;
    let sections = u64::from(u16_at(&header, 58)) * u64::from(u16_at(&header, 60));
    truncated("the section header table", u64_at(&header, 40).checked_add(sections))?;
    let mut loadable = false;
    for i in 0..count {
        let mut segment = [0u8; 56];
        let read = file.seek(SeekFrom::Start(table + i * entry)).and_then(|_| file.read_exact(&mut segment));
        read.map_err(|e| format!("cannot be read: {e}"))?;
        const LOAD: u8 = 1;
        if segment[0] == LOAD && segment[1..4] == [0; 3] {
            loadable = true;
            truncated("a segment", u64_at(&segment, 8).checked_add(u64_at(&segment, 32)))?;
        }
    }
    if loadable { Ok(()) } else { Err("corrupted: it has no loadable segment".into()) }
}

/// Other systems' linkers check for themselves.
#[cfg(not(target_os = "linux"))]
pub(crate) fn check(path: &Path) -> Result<(), String> {
    File::open(path).map(drop).map_err(|e| format!("cannot be opened: {e}"))
}
