//! Decides, once per load, which layers of a model run on which device.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use rocmforge_abi::{CompileOptions, MemoryNeed};
use rocmforge_gguf::GgufFile;
use rocmforge_program::{Op, Program};

use crate::backend::{Backend, Device};
use crate::config::GpuLayers;
use crate::cut::Cuts;
use crate::error::{LoaderError, PluginErrorKind};
use crate::executable::Executable;
use crate::plugins::SkippedPlugin;
use crate::segment::Segment;

/// Tokens of context that a device keeps room for when layers are divided, where the size of the cache is not set.
const CONTEXT_TO_LEAVE_ROOM_FOR: u32 = 4096;

/// Layers of a model on a device.
#[derive(Clone, Debug)]
pub struct PlacementRow {
    /// The backend.
    pub backend: String,
    /// Its device.
    pub device: String,
    /// Layers on it. The first row has what comes before the layers, the last what comes after.
    pub layers: Range<u32>,
    /// Bytes of weights read from the file.
    pub weight_bytes: u64,
    /// Bytes that it takes on the device, beside the file, and per block of each cache group.
    pub need: MemoryNeed,
    /// Bytes free on the device before; 0: not known.
    pub memory_free: u64,
    /// Bytes of KV cache for each token of context.
    pub cache_bytes_per_token: u64,
    /// Why an earlier backend does not have them.
    pub note: String,
}

/// Where a model runs, decided once at load.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// One row per part, in the order in which they run.
    pub rows: Vec<PlacementRow>,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        writeln!(
            f,
            "{:<8} {:<40} {:>7} {:>11} {:>10} {:>11} {:>12} {:>10}  note",
            "backend", "device", "layers", "weights MiB", "copies MiB", "buffers MiB", "KV KiB/token", "free MiB"
        )?;
        for r in &self.rows {
            let layers = match r.layers.len() {
                0 => "none".to_owned(),
                _ => format!("{}-{}", r.layers.start, r.layers.end - 1),
            };
            writeln!(
                f,
                "{:<8} {:<40} {layers:>7} {:>11.1} {:>10.1} {:>11.1} {:>12.1} {:>10.0}  {}",
                r.backend,
                r.device,
                mib(r.weight_bytes),
                mib(r.need.weights),
                mib(r.need.activations),
                r.cache_bytes_per_token as f64 / 1024.0,
                mib(r.memory_free),
                r.note
            )?;
        }
        Ok(())
    }
}

/// What a placement depends on.
pub(crate) struct Request<'a> {
    pub(crate) program: &'a Program,
    pub(crate) file: &'a Arc<GgufFile>,
    pub(crate) backends: &'a [Backend],
    /// Backends that were asked for first and have no device here.
    pub(crate) unavailable: &'a [SkippedPlugin],
    pub(crate) fallback: bool,
    pub(crate) gpu_layers: &'a GpuLayers,
    pub(crate) context: u32,
    /// Bytes of KV cache, if they are set.
    pub(crate) cache_bytes: Option<u64>,
    pub(crate) compile: CompileOptions,
}

/// A compiled piece and its row of the table.
struct Part {
    segment: Segment,
    groups: Vec<usize>,
    row: PlacementRow,
}

/// Compiles the program for the first backend that takes it, or for as many of its layers as that takes and the
/// rest for the next one. Custom operations that a backend does not know are replaced by their decompositions.
pub(crate) fn place(request: &Request<'_>) -> Result<(Executable, Placement), LoaderError> {
    let mut reasons: Vec<String> = request.unavailable.iter().map(|u| format!("{}: {}", u.name, u.reason)).collect();
    if let (false, Some(reason)) = (request.fallback, reasons.first()) {
        return Err(LoaderError::Placement(format!("{reason}; and fallback to other backends is off")));
    }
    for (i, backend) in request.backends.iter().enumerate() {
        match request.on(backend, request.backends.get(i + 1..).unwrap_or_default(), &reasons)? {
            Ok(placed) => return Ok(placed),
            Err(reason) if !request.fallback => {
                return Err(LoaderError::Placement(format!("{reason}; and fallback to other backends is off")));
            }
            Err(reason) => {
                tracing::warn!("placement: {reason}");
                reasons.push(reason);
            }
        }
    }
    Err(LoaderError::Placement(format!("no backend runs this model: {}", reasons.join("; "))))
}

/// The first layer from which on a backend runs everything, and why not all; `None`: not even what follows the layers.
fn supported(backend: &Backend, program: &Program) -> Result<(Option<u32>, Option<String>), LoaderError> {
    for node in program.nodes.iter().rev() {
        let weights = node.op.weights();
        let dtypes: Vec<_> = weights.iter().filter_map(|w| program.weights.get(w.index()).map(|w| w.dtype)).collect();
        if !backend.supports(&node.op, &dtypes)? {
            let place = node.layer.map_or_else(|| "outside the layers".into(), |l| format!("in layer {l}"));
            let reason = format!("{}: no '{}' {place} with weights {dtypes:?}", backend.name(), node.op.name());
            // Before the layers: everything but the first piece may still run.
            let from = node.layer.map_or(1, |l| l + 1);
            let behind = program.nodes.iter().rev().take_while(|n| !std::ptr::eq(*n, node)).any(|n| n.layer.is_some());
            return Ok((behind.then_some(from), Some(reason)));
        }
    }
    Ok((Some(0), None))
}

fn expand(program: &Program, backends: &[&Backend]) -> Result<Program, LoaderError> {
    let known = |op: &Op| backends.iter().all(|b| b.supports(op, &[]).unwrap_or(false));
    program.expand_custom(|c| known(&Op::Custom(c.clone()))).map_err(|e| LoaderError::Placement(e.to_string()))
}

type Placed = (Executable, Placement);

impl Request<'_> {
    /// The model on a backend and, for the layers that do not go there, the first of `others` that takes them; or
    /// why not.
    fn on(
        &self,
        backend: &Backend,
        others: &[Backend],
        reasons: &[String],
    ) -> Result<Result<Placed, String>, LoaderError> {
        let whole = expand(self.program, &[backend])?;
        let (from, reason) = supported(backend, &whole)?;
        let mut rest = None;
        for other in others {
            if supported(other, &expand(self.program, &[backend, other])?)?.1.is_none() {
                rest = Some(other);
                break;
            }
        }
        let (Some(from), true) = (from, reason.is_none() || (self.fallback && rest.is_some())) else {
            return Ok(Err(reason.unwrap_or_default()));
        };
        let program = match rest {
            Some(rest) => expand(self.program, &[backend, rest])?,
            None => whole,
        };
        let cuts = Cuts::of(&program).map_err(|e| LoaderError::Placement(e.to_string()))?;
        let (mut parts, left, full) = match self.fill(backend, &cuts, from, rest.is_some()) {
            Ok(filled) => filled,
            // It may be another backend's device that is out of order or too small.
            Err(e) if e.plugin_kind().is_some_and(|k| k != PluginErrorKind::Panic) && rest.is_some() => {
                return Ok(Err(e.to_string()));
            }
            Err(e) => return Err(e),
        };
        let mut notes = reasons.to_vec();
        notes.extend(reason);
        if left > 0 || parts.is_empty() {
            let asked = matches!(self.gpu_layers, GpuLayers::Count(_));
            let full = full.unwrap_or_else(|| format!("{}: gpu_layers leaves it no layer", backend.name()));
            let (Some(rest), true) = (rest, !parts.is_empty()) else { return Ok(Err(full)) };
            if !self.fallback && !asked {
                return Ok(Err(full));
            }
            if !asked {
                notes.push(full);
            }
            parts.push(self.part(rest, None, &cuts, 0..left)?);
        }
        parts.reverse();
        parts[0].row.note = notes.join("; ");
        let placement = Placement { rows: parts.iter().map(|p| p.row.clone()).collect() };
        let segments = parts.into_iter().map(|p| (p.segment, p.groups)).collect();
        Ok(Ok((Executable::of(Arc::new(program), segments)?, placement)))
    }

    /// Fills the devices of a backend from the last layer on, down to layer `from`. Returns the parts from the last
    /// on, how many layers are left, and what kept them from the devices.
    fn fill(
        &self,
        backend: &Backend,
        cuts: &Cuts<'_>,
        from: u32,
        divisible: bool,
    ) -> Result<(Vec<Part>, u32, Option<String>), LoaderError> {
        let mut devices: Vec<Option<Device>> = backend.devices()?.into_iter().map(Some).collect();
        if devices.is_empty() || !backend.chooses_devices() {
            devices.resize(1, None);
        }
        let (mut left, mut full, last) = (self.program.info.layers, None, devices.len() - 1);
        let (mut parts, mut done) = (vec![], false);
        for (i, device) in devices.iter().enumerate() {
            if done {
                break;
            }
            let lowest = match self.gpu_layers {
                GpuLayers::Auto => from,
                // Without another backend there is nowhere else to go.
                GpuLayers::Count(_) if !divisible && i == last => from,
                GpuLayers::Count(counts) => left.saturating_sub(counts.get(i).copied().unwrap_or(0)).max(from),
            };
            let starts: Vec<u32> = (lowest..left).filter(|&l| l == 0 || cuts.possible(l)).collect();
            let unlimited = !matches!(self.gpu_layers, GpuLayers::Auto) || (!divisible && i == last);
            let (part, reason) = self.most(backend, device.as_ref(), cuts, &starts, left, unlimited)?;
            full = full.or(reason);
            if let Some(part) = part {
                left = part.row.layers.start;
                done = left == 0;
                parts.push(part);
            }
        }
        // A program without layers has nothing to divide.
        if self.program.info.layers == 0 && parts.is_empty() {
            parts.push(self.part(backend, devices[0].as_ref(), cuts, 0..0)?);
        }
        Ok((parts, left, full))
    }

    /// The longest piece up to layer `end` that a device has room for, and why it is not the longest of all.
    fn most(
        &self,
        backend: &Backend,
        device: Option<&Device>,
        cuts: &Cuts<'_>,
        starts: &[u32],
        end: u32,
        unlimited: bool,
    ) -> Result<(Option<Part>, Option<String>), LoaderError> {
        let (mut low, mut high) = (0, starts.len());
        let (mut found, mut reason) = (None, None);
        while low < high {
            // All of it first: that is what fits most often.
            let middle = if reason.is_none() { low } else { (low + high) / 2 };
            let part = self.part(backend, device, cuts, starts[middle]..end)?;
            let (need, free) = (self.bytes(&part), budget(part.row.memory_free));
            if unlimited || free.is_none_or(|free| need <= free) {
                (found, high) = (Some(part), middle);
            } else {
                reason.get_or_insert_with(|| {
                    let (need, free, layers) = (need >> 20, free.unwrap_or(0) >> 20, end - starts[middle]);
                    format!("{}: {layers} layers need {need} MiB, {free} MiB can be used", part.row.device)
                });
                low = middle + 1;
            }
        }
        Ok((found, reason))
    }

    /// What a part takes of its device, with room for a cache.
    fn bytes(&self, part: &Part) -> u64 {
        let layers = u64::from(self.program.info.layers.max(1));
        let cache = match self.cache_bytes {
            Some(bytes) => bytes / layers * part.row.layers.len() as u64,
            None => part.row.cache_bytes_per_token * u64::from(self.context.min(CONTEXT_TO_LEAVE_ROOM_FOR)),
        };
        part.row.need.weights.saturating_add(part.row.need.activations).saturating_add(cache)
    }

    fn part(
        &self,
        backend: &Backend,
        device: Option<&Device>,
        cuts: &Cuts<'_>,
        layers: Range<u32>,
    ) -> Result<Part, LoaderError> {
        let piece = cuts.piece(layers).map_err(|e| LoaderError::Placement(e.to_string()))?;
        let bytes = |w: &rocmforge_program::WeightDecl| w.dtype.row_bytes(w.dims.iter().product()).unwrap_or(0) as u64;
        let weight_bytes = piece.program.weights.iter().map(bytes).sum();
        let id = device.map(|d| d.id.as_str());
        let segment = backend.compile_on(Arc::new(piece.program), Arc::clone(self.file), self.compile, id)?;
        let first = match device {
            Some(device) => Some(device.clone()),
            None => backend.devices()?.into_iter().next(),
        };
        let need = segment.memory().clone();
        let per_block: u64 = need.cache_block.iter().sum();
        let row = PlacementRow {
            backend: backend.name().to_owned(),
            device: first.as_ref().map_or_else(String::new, |d| format!("{} {}", d.id, d.description)),
            layers: piece.layers,
            weight_bytes,
            cache_bytes_per_token: per_block.div_ceil(u64::from(self.compile.block_size.max(1))),
            need,
            memory_free: first.map_or(0, |d| d.memory_free),
            note: String::new(),
        };
        Ok(Part { segment, groups: piece.groups, row })
    }
}

/// How much of a device's free memory may be planned with; `None`: not known. The rest is for code, graphs and what
/// other programs come to need.
fn budget(free: u64) -> Option<u64> {
    (free > 0).then(|| free - free / 32)
}
