//! Images of kernels: shared libraries of the host, built from the kernels' sources.

use std::ffi::{CStr, CString, c_void};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use rocmforge_hip_sys::{hipError_t, hipErrorInvalidImage, hipErrorNoBinaryForGpu, hipErrorOperatingSystem};

use crate::block::{Current, Entry, HOOKS, RfSimtHooks};

/// A loaded image.
pub struct Image {
    library: libloading::Library,
    /// Its current lane.
    pub current: Current,
    path: PathBuf,
    keep: bool,
}

type Failed = (hipError_t, String);

/// Refuses with a status and the reason.
fn refuse<T>(status: hipError_t, reason: impl Into<String>) -> Result<T, Failed> {
    Err((status, reason.into()))
}

impl Image {
    /// Loads an image for waves of `wave` lanes.
    ///
    /// # Errors
    /// A status of HIP and the reason: not an ELF file, for another machine, for the other wave.
    ///
    /// # Safety
    /// The memory holds a whole ELF file, whose code is trusted.
    pub unsafe fn load(image: *const u8, wave: usize) -> Result<Self, Failed> {
        // SAFETY: what the caller vouches for.
        let bytes = unsafe { elf(image) }?;
        let keep = crate::memory::sanitised();
        let path = write(bytes).map_err(|e| (hipErrorOperatingSystem, format!("a temporary file: {e}")))?;
        // SAFETY: the initialisers of trusted code.
        let library = unsafe { libloading::Library::new(&path) };
        if !keep {
            let _ = std::fs::remove_file(&path);
        }
        let library = match library {
            Ok(library) => library,
            Err(error) => return refuse(hipErrorInvalidImage, error.to_string()),
        };
        let missing = |name: &str| (hipErrorInvalidImage, format!("the image has no {name}"));
        // SAFETY: an image's functions have the types of the seam between it and this library.
        unsafe {
            type Bind = unsafe extern "C" fn(*const RfSimtHooks);
            type Wave = unsafe extern "C" fn() -> u32;
            let bind = library.get::<Bind>("rf_simt_bind").map_err(|_| missing("rf_simt_bind"))?;
            let current = *library.get::<Current>("rf_simt_current").map_err(|_| missing("rf_simt_current"))?;
            let built_for = (*library.get::<Wave>("rf_simt_wave").map_err(|_| missing("rf_simt_wave"))?)();
            if built_for as usize != wave {
                return refuse(
                    hipErrorNoBinaryForGpu,
                    format!("the image is for waves of {built_for}, the device has {wave}"),
                );
            }
            bind(&HOOKS);
            Ok(Self { library, current, path, keep })
        }
    }

    /// A kernel, if the image has one of this name.
    pub fn kernel(&self, name: &CStr) -> Option<Entry> {
        // SAFETY: every exported function but those of the seam is a kernel.
        unsafe { self.library.get::<Entry>(name) }.ok().map(|symbol| *symbol)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.keep {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The bytes of an ELF file of this machine that begins at `image`: as far as its tables and sections reach.
///
/// # Safety
/// The memory holds a whole ELF file.
unsafe fn elf<'a>(image: *const u8) -> Result<&'a [u8], Failed> {
    // SAFETY: a whole ELF file has a header of 64 bytes.
    let header = unsafe { std::slice::from_raw_parts(image, 64) };
    if header[..4] != *b"\x7fELF" {
        return refuse(hipErrorInvalidImage, "not an ELF file");
    }
    let (own, machine) =
        (if cfg!(target_arch = "x86_64") { 62 } else { 183 }, u16::from_le_bytes([header[18], header[19]]));
    if header[4] != 2 || machine != own {
        return refuse(hipErrorNoBinaryForGpu, format!("the image is for machine {machine} of ELF, expected {own}"));
    }
    let half = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let (segments, segment_bytes, segment_count) = (word(header, 32), half(54), half(56));
    let (sections, section_bytes, section_count) = (word(header, 40), half(58), half(60));
    let table = |at: u64, entry: u64, count: u64| {
        let most = 1 << 32;
        if at > most {
            return refuse(hipErrorInvalidImage, "a table of the ELF header lies far outside of the file");
        }
        // SAFETY: the tables are part of a whole ELF file.
        Ok(unsafe { std::slice::from_raw_parts(image.add(at as usize), (entry * count) as usize) })
    };
    let mut end = 64.max(sections + section_bytes * section_count).max(segments + segment_bytes * segment_count);
    if segment_bytes >= 56 {
        for segment in table(segments, segment_bytes, segment_count)?.chunks_exact(segment_bytes as usize) {
            end = end.max(word(segment, 8).saturating_add(word(segment, 32)));
        }
    }
    const NO_BITS: u32 = 8;
    if section_bytes >= 64 {
        for section in table(sections, section_bytes, section_count)?.chunks_exact(section_bytes as usize) {
            let kind = u32::from_le_bytes(std::array::from_fn(|i| section[4 + i]));
            if kind != NO_BITS {
                end = end.max(word(section, 24).saturating_add(word(section, 32)));
            }
        }
    }
    // SAFETY: everything that the headers name is part of a whole ELF file.
    Ok(unsafe { std::slice::from_raw_parts(image, end as usize) })
}

/// Writes a file that no other process and no earlier image used: the dynamic loader knows libraries by their names.
fn write(bytes: &[u8]) -> std::io::Result<PathBuf> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rocmforge-simt-{}-{number}.so", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => return file.write_all(bytes).map(|()| path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether a symbol is known in the whole process.
pub fn global_symbol(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: asks for an address only.
    let address: *mut c_void = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    !address.is_null()
}
