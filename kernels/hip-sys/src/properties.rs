//! The one thing that only the structure of device properties tells: the name of the instruction set.
//!
//! The structure changed its layout with ROCm 6, and the function its symbol. Everything else about a device is asked with
//! `hipDeviceGetAttribute`, whose numbers have not changed.

/// Bytes to offer for the structure: it has 792 in ROCm 5 and 1,472 in ROCm 6 and 7, and may grow.
pub const DEVICE_PROPERTIES_BYTES: usize = 8192;
/// Where `gcnArchName` begins in what `hipGetDeviceProperties` of ROCm 5 writes.
pub const PROPERTIES_R0000_ARCH_OFFSET: usize = 396;
/// Where `gcnArchName` begins in what `hipGetDevicePropertiesR0600` writes.
pub const PROPERTIES_R0600_ARCH_OFFSET: usize = 1160;
/// Bytes of `gcnArchName`.
const ARCH_BYTES: usize = 256;

/// Memory for the structure.
#[repr(C, align(16))]
pub(crate) struct Properties(pub [u8; DEVICE_PROPERTIES_BYTES]);

impl Properties {
    pub fn empty() -> Box<Self> {
        Box::new(Self([0; DEVICE_PROPERTIES_BYTES]))
    }
}

/// The name of the instruction set at `offset` of a structure of properties, without its features: `gfx90a` of
/// `gfx90a:sramecc+:xnack-`.
///
/// # Errors
/// The bytes that are there instead, as text: a name consists of ASCII letters, digits, `_` and `-`.
pub fn arch_name(properties: &[u8], offset: usize) -> Result<String, String> {
    let field = properties.get(offset..).unwrap_or_default();
    let field = &field[..field.len().min(ARCH_BYTES)];
    let text = field.split(|b| *b == 0).next().unwrap_or_default();
    let name = text.split(|b| *b == b':').next().unwrap_or_default();
    let plain = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'-';
    if name.is_empty() || !name.iter().all(plain) {
        let shown = &text[..text.len().min(32)];
        return Err(if shown.is_empty() { "nothing".into() } else { format!("'{}'", shown.escape_ascii()) });
    }
    Ok(name.iter().map(|b| char::from(*b)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_instruction_set_is_read_without_its_features() {
        let check = |text: &[u8], expected: Result<&str, &str>| {
            let mut bytes = vec![0; PROPERTIES_R0600_ARCH_OFFSET];
            bytes.extend_from_slice(text);
            let found = arch_name(&bytes, PROPERTIES_R0600_ARCH_OFFSET);
            assert_eq!(found.as_deref().map_err(String::as_str), expected);
        };
        check(b"gfx1100\0\0\0", Ok("gfx1100"));
        check(b"gfx90a:sramecc+:xnack-\0", Ok("gfx90a"));
        check(b"sm_90", Ok("sm_90"));
        check(b"gfx9-4-generic\0", Ok("gfx9-4-generic"));
        check(b"", Err("nothing"));
        check(b"\0gfx", Err("nothing"));
        check(b":x", Err("':x'"));
        check(b"\x01\xffgfx\0", Err("'\\x01\\xffgfx'"));
        assert_eq!(arch_name(b"short", 396), Err("nothing".to_owned()));
    }
}
