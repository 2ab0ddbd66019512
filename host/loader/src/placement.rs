use std::fmt;

use rocmforge_program::{Op, Program};

use crate::backend::Backend;
use crate::error::LoaderError;

/// Layers of a model on a backend.
#[derive(Clone, Debug)]
pub struct PlacementRow {
    /// The backend.
    pub backend: String,
    /// Its device.
    pub device: String,
    /// Layers on it.
    pub layers: u32,
    /// Bytes of weights read from the file.
    pub weight_bytes: u64,
    /// Why an earlier backend does not have them.
    pub note: String,
}

/// Where a model runs, decided once at load.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// One row per part.
    pub rows: Vec<PlacementRow>,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<10} {:<44} {:>6} {:>12}  note", "backend", "device", "layers", "weights MiB")?;
        for r in &self.rows {
            let mib = r.weight_bytes as f64 / (1 << 20) as f64;
            writeln!(f, "{:<10} {:<44} {:>6} {mib:>12.1}  {}", r.backend, r.device, r.layers, r.note)?;
        }
        Ok(())
    }
}

/// The first backend that runs the whole program, with the program as it runs there: custom operations that it does
/// not know are replaced by their decompositions.
pub(crate) fn place<'a>(
    program: &Program,
    backends: &'a [Backend],
    fallback: bool,
) -> Result<(&'a Backend, Program, Placement), LoaderError> {
    let mut reasons = vec![];
    for backend in backends {
        let mut failed = None;
        let expanded = program
            .expand_custom(|custom| {
                let known = backend.supports(&Op::Custom(custom.clone()), &[]);
                known.unwrap_or(false)
            })
            .map_err(|e| LoaderError::Placement(e.to_string()))?;
        for node in &expanded.nodes {
            let dtypes: Vec<_> =
                node.op.weights().iter().filter_map(|w| expanded.weights.get(w.index()).map(|w| w.dtype)).collect();
            if !backend.supports(&node.op, &dtypes)? {
                let layer = node.layer.map_or_else(|| "outside the layers".into(), |l| format!("in layer {l}"));
                failed = Some(format!("{}: no '{}' {layer} with weights {dtypes:?}", backend.name(), node.op.name()));
                break;
            }
        }
        let Some(reason) = failed else {
            let device = backend.devices()?.into_iter().next();
            let bytes =
                |w: &rocmforge_program::WeightDecl| w.dtype.row_bytes(w.dims.iter().product()).unwrap_or(0) as u64;
            let row = PlacementRow {
                backend: backend.name().to_owned(),
                device: device.map_or_else(String::new, |d| format!("{} {}", d.id, d.description)),
                layers: expanded.info.layers,
                weight_bytes: expanded.weights.iter().map(bytes).sum(),
                note: reasons.join("; "),
            };
            return Ok((backend, expanded, Placement { rows: vec![row] }));
        };
        if !fallback {
            return Err(LoaderError::Placement(format!("{reason}; and fallback to other backends is off")));
        }
        tracing::warn!("placement: {reason}");
        reasons.push(reason);
    }
    Err(LoaderError::Placement(format!("no backend runs this model: {}", reasons.join("; "))))
}
