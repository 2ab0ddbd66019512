use rocmforge_abi::abi_stable::prefix_type::PrefixTypeTrait;
use rocmforge_abi::{self as abi, ArchitectureTable, ArchitectureTableRef, ModelView, RStr, RString, RVec, Status};

use crate::guard::{guard, guard_value};
use crate::model::Model;
use crate::options::Options;
use crate::traits::{Architecture, BuildOptions, Fit};

/// The table of an architecture.
pub fn architecture_table<A: Architecture>(name: &'static str) -> ArchitectureTableRef {
    ArchitectureTable { name: RStr::from_str(name), claims: claims::<A>, fit: fit::<A>, build: build::<A> }
        .leak_into_prefix()
}

extern "C" fn claims<A: Architecture>() -> RVec<RString> {
    guard_value(RVec::new(), || A::CLAIMS.iter().map(|&c| RString::from(c)).collect())
}

extern "C" fn fit<A: Architecture>(view: ModelView, out: &mut u32) -> Status {
    guard(|| {
        // SAFETY: the host keeps the view valid during the call, and the model does not outlive it.
        let model = unsafe { Model::new(view) };
        *out = match A::fit(&model) {
            Fit::No => 0,
            Fit::General => 100,
            Fit::Specific => 200,
        };
        Ok(())
    })
}

extern "C" fn build<A: Architecture>(
    view: ModelView,
    options_json: RStr<'_>,
    build: abi::BuildOptions,
    out: &mut RVec<u8>,
) -> Status {
    guard(|| {
        // SAFETY: the host keeps the view valid during the call, and the model does not outlive it.
        let model = unsafe { Model::new(view) };
        let build = BuildOptions { context_length: (build.context_length > 0).then_some(build.context_length) };
        let program = A::build(&model, &Options::new(&options_json), &build)?;
        program.validate()?;
        *out = program.to_bytes().into();
        Ok(())
    })
}
