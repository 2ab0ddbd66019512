use rocmforge_abi::abi_stable::prefix_type::PrefixTypeTrait;
use rocmforge_abi::{ArchitectureTableRef, BackendTableRef, HostTableRef, Plugin, PluginRef, RStr, RVec, Status};
use rocmforge_program::IR_VERSION;

use crate::guard::{guard, install_panic_hook};
use crate::host;

/// One architecture or backend of this library.
pub enum Registration {
    /// Makes the table of an architecture.
    Architecture(fn() -> ArchitectureTableRef),
    /// Makes the table of a backend.
    Backend(fn() -> BackendTableRef),
}

inventory::collect!(Registration);

/// What [`export_plugin!`](crate::export_plugin) knows of the crate that it stands in.
pub struct PluginFacts {
    /// Name of its package.
    pub name: &'static str,
    /// Version of its package.
    pub version: &'static str,
}

inventory::collect!(PluginFacts);

fn facts() -> &'static PluginFacts {
    inventory::iter::<PluginFacts>.into_iter().next().unwrap_or(&PluginFacts { name: "unnamed", version: "0.0.0" })
}

/// The tables of this library.
pub fn plugin() -> PluginRef {
    Plugin {
        name: RStr::from_str(facts().name),
        version: RStr::from_str(facts().version),
        ir_version: RStr::from_str(Box::leak(IR_VERSION.to_string().into_boxed_str())),
        init,
        architectures,
        backends,
    }
    .leak_into_prefix()
}

extern "C" fn init(table: HostTableRef) -> Status {
    guard(|| {
        install_panic_hook();
        host::install(table, facts().name);
        Ok(())
    })
}

extern "C" fn architectures(out: &mut RVec<ArchitectureTableRef>) -> Status {
    guard(|| {
        out.extend(inventory::iter::<Registration>.into_iter().filter_map(|r| match r {
            Registration::Architecture(table) => Some(table()),
            Registration::Backend(_) => None,
        }));
        Ok(())
    })
}

extern "C" fn backends(out: &mut RVec<BackendTableRef>) -> Status {
    guard(|| {
        out.extend(inventory::iter::<Registration>.into_iter().filter_map(|r| match r {
            Registration::Backend(table) => Some(table()),
            Registration::Architecture(_) => None,
        }));
        Ok(())
    })
}

/// Adds a further architecture or backend to a library that has [`export_plugin!`](crate::export_plugin).
#[macro_export]
macro_rules! register {
    (name: $name:literal, architecture: $type:ty $(,)?) => {
        $crate::private::inventory::submit! {
            $crate::private::Registration::Architecture(|| $crate::private::architecture_table::<$type>($name))
        }
    };
    (name: $name:literal, backend: $type:ty $(,)?) => {
        $crate::private::inventory::submit! {
            $crate::private::Registration::Backend(|| $crate::private::backend_table::<$type>($name))
        }
    };
}

/// Makes the crate a ROCmForge plugin that holds one architecture or backend. Once per crate, which must be a `cdylib`;
/// [`register!`](crate::register) adds more. `name: ".."` is what the user and log lines call it, then follows
/// `architecture: Type` or `backend: Type`; name and version of the library are those of the package.
#[macro_export]
macro_rules! export_plugin {
    (name: $name:literal, $kind:ident: $type:ty $(,)?) => {
        $crate::register! { name: $name, $kind: $type }

        $crate::private::inventory::submit! {
            $crate::private::PluginFacts { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") }
        }

        // SAFETY: the name is reserved for this purpose, and a crate that uses the macro twice does not link.
        #[unsafe(no_mangle)]
        #[allow(non_upper_case_globals)]
        pub static rocmforge_plugin: $crate::private::LibHeader = {
            extern "C" fn tables() -> $crate::private::RootModuleResult {
                $crate::private::__call_root_module_loader($crate::private::plugin)
            }
            // SAFETY: `tables` returns a `PluginRef`, as the type parameter says.
            unsafe {
                $crate::private::LibHeader::from_constructor::<$crate::private::PluginRef>(
                    tables,
                    $crate::private::CheckTypeLayout::Yes,
                )
            }
        };
    };
}
