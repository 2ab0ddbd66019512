//! The tables of today and one field more at the end, as version 1.9 may have.

use abi_stable::StableAbi;
use abi_stable::library::{__call_root_module_loader, CheckTypeLayout, LibHeader, RootModule, RootModuleResult};
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::sabi_types::VersionStrings;
use rocmforge_abi::{ArchitectureTableRef, BackendTableRef, HostTableRef, RStr, RVec, Status};

/// The root of a plugin, made by hand.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginRef)))]
pub struct Plugin {
    /// As in the real one.
    pub name: RStr<'static>,
    /// As in the real one.
    pub version: RStr<'static>,
    /// As in the real one.
    pub ir_version: RStr<'static>,
    /// As in the real one.
    pub init: extern "C" fn(host: HostTableRef) -> Status,
    /// As in the real one.
    pub architectures: extern "C" fn(out: &mut RVec<ArchitectureTableRef>) -> Status,
    /// As in the real one.
    #[sabi(last_prefix_field)]
    pub backends: extern "C" fn(out: &mut RVec<BackendTableRef>) -> Status,
    /// One that the host has never heard of.
    pub later: u64,
}

impl RootModule for PluginRef {
    abi_stable::declare_root_module_statics! {PluginRef}
    const BASE_NAME: &'static str = "rocmforge_plugin";
    const NAME: &'static str = "rocmforge_plugin";
    const VERSION_STRINGS: VersionStrings = VersionStrings::new("1.9.0");
}

extern "C" fn init(_: HostTableRef) -> Status {
    Status::ok()
}

extern "C" fn architectures(_: &mut RVec<ArchitectureTableRef>) -> Status {
    Status::ok()
}

extern "C" fn backends(_: &mut RVec<BackendTableRef>) -> Status {
    Status::ok()
}

fn plugin() -> PluginRef {
    Plugin {
        name: RStr::from_str("fixture-newer-minor"),
        version: RStr::from_str("0.1.0"),
        ir_version: RStr::from_str("1.0.0"),
        init,
        architectures,
        backends,
        later: 9,
    }
    .leak_into_prefix()
}

// SAFETY: the name is reserved for this purpose.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static rocmforge_plugin: LibHeader = {
    extern "C" fn tables() -> RootModuleResult {
        __call_root_module_loader(plugin)
    }
    // SAFETY: `tables` returns what the type parameter says.
    unsafe { LibHeader::from_constructor::<PluginRef>(tables, CheckTypeLayout::Yes) }
};
