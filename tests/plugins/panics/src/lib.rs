//! Panics in the callback that its option `at` names, and in every callback of its architecture.
#![forbid(unsafe_code)]

use rocmforge_sdk::program::{Op, OutputBuffer, Step};
use rocmforge_sdk::{
    Architecture, Backend, BoundWeight, BuildOptions, CompileOptions, DType, Device, Executable, Fit, MemoryNeed,
    Model, Options, Program, Result,
};
use serde::Deserialize;

struct Panics;

impl Architecture for Panics {
    const CLAIMS: &'static [&'static str] = &["panics-in-fit", "panics-in-build"];

    fn fit(model: &Model<'_>) -> Fit {
        assert_ne!(model.architecture(), "panics-in-fit", "a panic in fit,\nwith a second line");
        Fit::General
    }

    fn build(_: &Model<'_>, _: &Options, _: &BuildOptions) -> Result<Program> {
        panic!("a panic in build")
    }
}

/// Where to panic.
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct At {
    at: String,
}

impl Default for At {
    fn default() -> At {
        At { at: "create".into() }
    }
}

impl At {
    fn reach(&self, callback: &str) {
        if self.at == callback {
            panic!("a panic in {callback}");
        }
    }
}

struct Brittle(At);

impl Backend for Brittle {
    type Exec = Exec;

    fn create(options: &Options) -> Result<Brittle> {
        let at: At = options.parse()?;
        at.reach("create");
        Ok(Brittle(at))
    }

    fn devices(&self) -> Result<Vec<Device>> {
        self.0.reach("devices");
        Ok(vec![Device { id: "none".into(), ..Device::default() }])
    }

    fn extensions(&self) -> Vec<String> {
        self.0.reach("extensions");
        vec![]
    }

    fn supports(&self, _: &Op, _: &[DType]) -> bool {
        self.0.reach("supports");
        true
    }

    fn compile(&self, _: Program, _: CompileOptions) -> Result<Exec> {
        self.0.reach("compile");
        Ok(Exec(self.0.clone()))
    }
}

impl Drop for Brittle {
    fn drop(&mut self) {
        self.0.reach("destroy");
    }
}

struct Exec(At);

impl Executable for Exec {
    fn memory(&self) -> MemoryNeed {
        self.0.reach("memory");
        MemoryNeed::default()
    }

    fn bind(&mut self, _: BoundWeight) -> Result<()> {
        self.0.reach("bind");
        Ok(())
    }

    fn finalize(&mut self) -> Result<()> {
        self.0.reach("finalize");
        Ok(())
    }

    fn allocate_cache(&mut self, _: &[u64]) -> Result<()> {
        self.0.reach("allocate_cache");
        Ok(())
    }

    fn submit(&mut self, _: &Step<'_>) -> Result<()> {
        self.0.reach("submit");
        Ok(())
    }

    fn wait(&mut self, outputs: &mut [OutputBuffer<'_>]) -> Result<()> {
        self.0.reach("wait");
        outputs.iter_mut().for_each(|o| o.data.fill(0.0));
        Ok(())
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        self.0.reach("destroy executable");
    }
}

rocmforge_sdk::export_plugin! { name: "panics", architecture: Panics }
rocmforge_sdk::register! { name: "panics", backend: Brittle }
