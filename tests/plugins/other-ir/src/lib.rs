//! Everything is as it should be but for the version of the Program, which is 2.0.0.

use rocmforge_abi::abi_stable::library::{__call_root_module_loader, CheckTypeLayout, LibHeader, RootModuleResult};
use rocmforge_abi::abi_stable::prefix_type::PrefixTypeTrait;
use rocmforge_abi::{ArchitectureTableRef, BackendTableRef, HostTableRef, Plugin, PluginRef, RStr, RVec, Status};

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
        name: RStr::from_str("fixture-other-ir"),
        version: RStr::from_str("0.1.0"),
        ir_version: RStr::from_str("2.0.0"),
        init,
        architectures,
        backends,
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
