//! Finding and loading the library.

use std::ffi::{OsStr, OsString, c_int, c_void};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Attempt, HipError};
use crate::functions::HipFunctions;
use crate::types::{hipError_t, hipSuccess};

/// Environment variable that names the library to load; then no other is looked for.
pub const LIBRARY_VARIABLE: &str = "ROCMFORGE_HIP_LIBRARY";

/// Major versions of the library that are known to work, best first, and then newer ones that may.
const MAJORS: [u32; 8] = [7, 6, 5, 8, 9, 10, 11, 12];

/// HIP, loaded.
pub struct Hip {
    /// Every function.
    pub functions: HipFunctions,
    path: PathBuf,
    version: RuntimeVersion,
}

/// The version that the library says it has, as HIP packs it: major x 10,000,000 + minor x 100,000 + patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuntimeVersion(pub i32);

impl RuntimeVersion {
    /// The first number: 6 of ROCm 6.2.
    pub fn major(self) -> i32 {
        self.0 / 10_000_000
    }
}

impl fmt::Display for RuntimeVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HIP {}.{}.{}", self.major(), self.0 / 100_000 % 100, self.0 % 100_000)
    }
}

/// The names to try, in order: every name as the dynamic loader finds it, then in each folder.
///
/// `variable` gives an environment variable: `ROCM_PATH` and `HIP_PATH` are folders of an installation.
pub fn candidates(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(|root| PathBuf::from(root).join("lib"));
    let mut folders: Vec<PathBuf> = ["ROCM_PATH", "HIP_PATH"].into_iter().filter_map(set).collect();
    folders.push("/opt/rocm/lib".into());
    folders.dedup();
    let versioned = MAJORS.iter().map(|major| format!("libamdhip64.so.{major}"));
    let names: Vec<String> = versioned.chain(["libamdhip64.so".to_owned()]).collect();
    let bare_and_within = |name: &String| {
        let within: Vec<PathBuf> = folders.iter().map(|folder| folder.join(name)).collect();
        [PathBuf::from(name)].into_iter().chain(within)
    };
    names.iter().flat_map(bare_and_within).collect()
}

impl Hip {
    /// Loads the library: `library` if it is given, else what the environment variable [`LIBRARY_VARIABLE`] names, else the
    /// first of [`candidates`] that loads. It is never unloaded.
    ///
    /// # Errors
    /// One error that lists every attempt, or a library without a required function.
    pub fn load(library: Option<&Path>) -> Result<Self, HipError> {
        let variable = std::env::var_os(LIBRARY_VARIABLE).filter(|value| !value.is_empty());
        let (chosen, names) = match (library, variable) {
            (Some(path), _) => (Some("the configuration".to_owned()), vec![path.to_owned()]),
            (None, Some(value)) => (Some(format!("the environment variable {LIBRARY_VARIABLE}")), vec![value.into()]),
            (None, None) => (None, candidates(|name| std::env::var_os(name))),
        };
        let mut attempts = vec![];
        for name in names {
            match open(name.as_os_str()) {
                Ok(library) => return Self::from_library(library, name),
                Err(reason) => attempts.push(Attempt { candidate: name, reason }),
            }
        }
        Err(HipError::NotFound { chosen, attempts })
    }

    fn from_library(library: libloading::Library, path: PathBuf) -> Result<Self, HipError> {
        // Statics and threads of HIP must outlive every call, and there is no moment after the last one.
        let library: &'static libloading::Library = Box::leak(Box::new(library));
        let find = |symbol: &'static str| {
            address(library, symbol).map_err(|reason| HipError::MissingSymbol {
                library: path.clone(),
                version: runtime_version(library).map_or("of unknown version".to_owned(), |v| v.to_string()),
                symbol,
                reason,
            })
        };
        // SAFETY: the symbols are HIP's and the library that is called libamdhip64, or that the user chose, exports them
        // as HIP's documentation says; it is never unloaded.
        let functions = unsafe { HipFunctions::resolve(find) }?;
        if functions.hipGetDevicePropertiesR0600.is_none() && functions.hipGetDeviceProperties.is_none() {
            find("hipGetDevicePropertiesR0600")?;
        }
        let version = runtime_version(library).unwrap_or(RuntimeVersion(0));
        Ok(Self { functions, path, version })
    }

    /// The library: a file, or the name under which the dynamic loader found it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The library's version.
    pub fn version(&self) -> RuntimeVersion {
        self.version
    }

    /// An optional function, or the error that says that it is missing.
    pub(crate) fn optional<F: Copy>(&self, function: Option<F>, symbol: &'static str) -> Result<F, HipError> {
        let version = || self.version.to_string();
        function.ok_or_else(|| HipError::Unsupported { library: self.path.clone(), version: version(), symbol })
    }
}

fn open(name: &OsStr) -> Result<libloading::Library, String> {
    // SAFETY: loading a library runs its initialisers. These are the names of AMD's runtime, or a file that the user chose.
    unsafe { libloading::Library::new(name) }.map_err(|error| reason(&error))
}

/// The address of a symbol, never null.
fn address(library: &libloading::Library, symbol: &str) -> Result<*mut c_void, String> {
    // SAFETY: nothing is called here; a symbol of any type has an address.
    let found = unsafe { library.get::<*mut c_void>(symbol) }.map_err(|error| reason(&error))?;
    // SAFETY: the address is valid for as long as the library is loaded, which is for ever.
    let address = unsafe { found.try_as_raw_ptr() }.ok_or("its address is null")?;
    if address.is_null() { Err("its address is null".to_owned()) } else { Ok(address) }
}

fn runtime_version(library: &libloading::Library) -> Option<RuntimeVersion> {
    let address = address(library, "hipRuntimeGetVersion").ok()?;
    // SAFETY: HIP's function of this name has had this type since its first version.
    let ask: unsafe extern "C" fn(*mut c_int) -> hipError_t = unsafe { std::mem::transmute(address) };
    let mut version = 0;
    // SAFETY: the pointer is that of an int that outlives the call.
    let status = unsafe { ask(&mut version) };
    (status == hipSuccess).then_some(RuntimeVersion(version))
}

/// The dynamic loader's own words.
fn reason(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tried_in_the_documented_order() {
        let check = |set: &[(&str, &str)], expected_first: &[&str], expected_count: usize| {
            let found = candidates(|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()));
            let first: Vec<&str> = found.iter().take(expected_first.len()).filter_map(|p| p.to_str()).collect();
            assert_eq!(first, expected_first);
            assert_eq!(found.len(), expected_count);
            assert_eq!(found.last().and_then(|p| p.to_str()), Some("/opt/rocm/lib/libamdhip64.so"));
        };
        check(&[], &["libamdhip64.so.7", "/opt/rocm/lib/libamdhip64.so.7", "libamdhip64.so.6"], 18);
        check(&[("ROCM_PATH", "")], &["libamdhip64.so.7", "/opt/rocm/lib/libamdhip64.so.7"], 18);
        check(
            &[("ROCM_PATH", "/a"), ("HIP_PATH", "/b")],
            &[
                "libamdhip64.so.7",
                "/a/lib/libamdhip64.so.7",
                "/b/lib/libamdhip64.so.7",
                "/opt/rocm/lib/libamdhip64.so.7",
            ],
            36,
        );
    }

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!(RuntimeVersion(60_342_134).to_string(), "HIP 6.3.42134");
        assert_eq!(RuntimeVersion(50_220_531).to_string(), "HIP 5.2.20531");
        assert_eq!(RuntimeVersion(70_000_000).major(), 7);
    }
}
