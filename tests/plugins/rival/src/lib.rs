//! Takes the files of `llama` as well as the real plugin does, and better where the model is called "special".
#![forbid(unsafe_code)]

use rocmforge_sdk::{Architecture, BuildOptions, Error, Fit, Meta, Model, Options, Program, Result};

struct Rival;

impl Architecture for Rival {
    const CLAIMS: &'static [&'static str] = &["llama"];

    fn fit(model: &Model<'_>) -> Fit {
        match model.get("general.name") {
            Some(Meta::Text("special")) => Fit::Specific,
            Some(Meta::Text("foreign")) => Fit::No,
            _ => Fit::General,
        }
    }

    fn build(_: &Model<'_>, _: &Options, _: &BuildOptions) -> Result<Program> {
        Err(Error::unsupported("the rival builds nothing"))
    }
}

rocmforge_sdk::export_plugin! { name: "rival", architecture: Rival }
