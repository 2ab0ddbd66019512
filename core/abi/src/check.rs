use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::{CheckingGlobals, check_layout_compatibility_with_globals};
use abi_stable::library::{AbiHeaderRef, LibHeader};
use abi_stable::sabi_types::VersionNumber;

use crate::{ABI_VERSION, PluginRef};

/// Why a library's plugin header is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AbiError {
    /// The header was written by an incompatible `abi_stable`, or is no header.
    #[error("its plugin header is not readable: {0}; rebuild it against a current rocmforge-sdk")]
    Header(String),
    /// Another major version of the ABI.
    #[error(
        "it speaks plugin ABI {found}, expected {}.x; rebuild it against rocmforge-sdk for ABI {}",
        major(),
        major()
    )]
    Version {
        /// The version in the header.
        found: String,
    },
    /// Same major version, yet the tables differ where they must not.
    #[error("its tables differ from plugin ABI {ABI_VERSION}: {0}; rebuild it against a released rocmforge-sdk")]
    Layout(String),
    /// The library failed while making its tables.
    #[error("it failed to start: {0}")]
    Start(String),
}

/// A plugin whose header and layout are accepted.
#[derive(Clone, Copy)]
pub struct CheckedPlugin {
    /// Its tables.
    pub plugin: PluginRef,
    /// The version of the ABI that it was built with.
    pub abi_version: (u32, u32, u32),
}

fn major() -> &'static str {
    ABI_VERSION.split('.').next().unwrap_or("1")
}

/// Checks a plugin header and returns the plugin's tables.
///
/// The check is directional: the side with the older ABI states what must be there, the newer side may have more.
/// So an old plugin keeps loading in a newer host, and a newer plugin in an older host.
///
/// # Errors
/// Each of [`AbiError`]; one readable line.
///
/// # Safety
/// `symbol` is the address of the symbol [`PLUGIN_SYMBOL`](crate::PLUGIN_SYMBOL) in a library that is never unloaded.
pub unsafe fn check_plugin(symbol: *const ()) -> Result<CheckedPlugin, AbiError> {
    // SAFETY: AbiHeaderRef is a transparent, non-null reference to a static in the library (the caller's contract
    // says that it stays), and only its magic string and version are read before it is upgraded.
    let header: AbiHeaderRef = unsafe {
        match std::ptr::NonNull::new(symbol.cast_mut()) {
            Some(address) => std::mem::transmute::<std::ptr::NonNull<()>, AbiHeaderRef>(address),
            None => return Err(AbiError::Header("the symbol is null".into())),
        }
    };
    let header: &'static LibHeader = header.upgrade().map_err(|e| AbiError::Header(last_lines(&e.to_string())))?;

    let ours =
        VersionNumber::new(abi_stable::package_version_strings!()).map_err(|e| AbiError::Header(e.to_string()))?;
    let version = header.version_strings();
    let theirs = VersionNumber::new(version).map_err(|e| AbiError::Header(e.to_string()))?;
    if theirs.major != ours.major {
        return Err(AbiError::Version { found: version.version.to_string() });
    }
    let expected = <PluginRef as StableAbi>::LAYOUT;
    let found = header.layout().ok_or_else(|| AbiError::Header("it carries no layout".into()))?;
    let older_first = (theirs.minor, theirs.patch) <= (ours.minor, ours.patch);
    let (older, newer) = if older_first { (found, expected) } else { (expected, found) };
    // Each plugin by itself: what abi_stable remembers of the libraries before would make it compare plugins of different
    // minor versions with each other, and refuse them. Nothing passes from one plugin to another.
    let alone = CheckingGlobals::new();
    let same = check_layout_compatibility_with_globals(older, newer, &alone);
    same.map_err(|e| AbiError::Layout(last_lines(&e.to_string())))?;

    // SAFETY: the layouts are compatible in the direction from the older to the newer side, and prefix types read
    // fields through accessors that know which of them exist.
    let plugin = unsafe { header.unchecked_layout::<PluginRef>() };
    let plugin = plugin.map_err(|e| AbiError::Start(last_lines(&format!("{e:?}"))))?;
    Ok(CheckedPlugin { plugin, abi_version: (theirs.major, theirs.minor, theirs.patch) })
}

/// The end of a report, in one line: abi_stable prints hundreds of lines whose last few say what differs.
fn last_lines(report: &str) -> String {
    let lines: Vec<&str> = report.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    lines[lines.len().saturating_sub(6)..].join(" | ").chars().take(400).collect()
}
