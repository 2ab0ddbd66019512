use rocmforge_quant::DType;
use serde::{Deserialize, Serialize};

use crate::error::ProgramError;
use crate::infer::infer_types;
use crate::op::{Op, ValueId};
use crate::shape::Element;

/// The version of the Program that this crate writes. The same major version and any minor version is read.
pub const IR_VERSION: semver::Version = semver::Version::new(1, 0, 0);

/// Names of outputs that the host knows.
pub mod output {
    /// `[L, vocab]`: logits of the rows in [`Step::logits_rows`](crate::Step::logits_rows).
    pub const LOGITS: &str = "logits";
    /// `[T, hidden]`: the residual stream, for the next segment of a split model.
    pub const HIDDEN: &str = "hidden";
    /// `[S, n]`: one vector per sequence, for embedding models.
    pub const POOLED: &str = "pooled";
    /// `[S, hidden]`: the mean over each sequence's tokens in the step of what the head works on; see
    /// [`with_embeddings`](crate::Program::with_embeddings).
    pub const MEAN: &str = "mean";
    /// `[S, hidden]`: the same of each sequence's last token in the step.
    pub const LAST: &str = "last";
}

/// Names of inputs that the host supplies.
pub mod input {
    use crate::op::InputSource;
    use crate::shape::{Element, Lead, Shape, ValueType};

    const LONGER_THAN: &str = "longer_than/";

    /// `longer_than/N`, `[T, 1]`: 1 for every token of a sequence that has more than `tokens` tokens, else 0.
    ///
    /// It is the same for all tokens of a sequence, those of earlier steps included: a host knows how long a prompt is
    /// before it computes the first piece of it, and computes a sequence that grows past the limit anew from its first
    /// token on, so that the caches never hold both.
    pub fn longer_than(tokens: u32) -> InputSource {
        let ty = ValueType { element: Element::F32, shape: Shape::new(Lead::T, &[1]) };
        InputSource::Named { name: format!("{LONGER_THAN}{tokens}"), ty }
    }

    /// The `N` of the name `longer_than/N`.
    pub fn longer_than_limit(name: &str) -> Option<u32> {
        name.strip_prefix(LONGER_THAN)?.parse().ok()
    }
}

/// Facts about the model that the host needs and the nodes do not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// `general.architecture` of the file.
    pub architecture: String,
    /// Tokens in the vocabulary: columns of the logits.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of layers; node tags are below it.
    pub layers: u32,
    /// Longest context the model was made for, in tokens.
    pub context_length: u32,
}

/// A weight that the program reads. The host binds the bytes after the program is compiled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightDecl {
    /// The tensor's name in the file.
    pub name: String,
    /// Dimensions, outermost first: `[out, in]` for a matrix (the reverse of the file's order).
    pub dims: Vec<usize>,
    /// Element type in the file.
    pub dtype: DType,
}

/// A paged KV cache of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheDecl {
    /// The layer that writes it.
    pub layer: u32,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a key head.
    pub key_dim: usize,
    /// Elements of a value head.
    pub value_dim: usize,
    /// Which block table of the step it uses; caches of one group grow together.
    pub group: u32,
    /// Positions that stay visible; the same for all caches of a group. Absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
}

/// An operation and the layer it belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// The operation.
    #[serde(flatten)]
    pub op: Op,
    /// The layer; absent before the first and after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<u32>,
}

/// A value that leaves the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputDecl {
    /// Its name; see [`output`].
    pub name: String,
    /// The value.
    pub value: ValueId,
}

/// A model as data. See the [crate documentation](crate).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Version of this description.
    pub ir: semver::Version,
    /// Facts about the model.
    pub info: ModelInfo,
    /// Weights, in the order of first use.
    pub weights: Vec<WeightDecl>,
    /// KV caches.
    pub caches: Vec<CacheDecl>,
    /// Operations in order of execution.
    pub nodes: Vec<Node>,
    /// Results.
    pub outputs: Vec<OutputDecl>,
}

impl Program {
    /// The bytes that cross the ABI: self-describing JSON, so that fields added later are ignored by older readers.
    pub fn to_bytes(&self) -> Vec<u8> {
        // A Program holds no map with non-string keys and no foreign Serialize, the only ways to fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads and validates the bytes of [`to_bytes`](Program::to_bytes).
    ///
    /// # Errors
    /// Another major version, an operation this crate does not know, or any rule of [`validate`](Program::validate).
    pub fn from_bytes(bytes: &[u8]) -> Result<Program, ProgramError> {
        #[derive(Deserialize)]
        struct Head {
            ir: semver::Version,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(ProgramError::decode)?;
        if head.ir.major != IR_VERSION.major {
            return Err(ProgramError::Version { found: head.ir });
        }
        let program: Program = serde_json::from_slice(bytes).map_err(ProgramError::decode)?;
        program.validate()?;
        Ok(program)
    }

    /// Checks every rule: values are defined before use, shapes fit, ids are in range, groups are consistent,
    /// names are unique, and there is an output.
    ///
    /// # Errors
    /// The first rule that does not hold, with node and layer.
    pub fn validate(&self) -> Result<(), ProgramError> {
        self.check_tables()?;
        let types = infer_types(self)?;
        if self.outputs.is_empty() {
            return Err(ProgramError::rule("outputs", "at least one output", "none"));
        }
        for (i, out) in self.outputs.iter().enumerate() {
            let ty = types.get(out.value);
            if ty.is_none_or(|t| t.element != Element::F32) {
                let found = ty.map_or_else(|| out.value.to_string(), |t| format!("{}: {t}", out.value));
                return Err(ProgramError::rule(format!("output '{}'", out.name), "a defined f32 value", found));
            }
            if self.outputs[..i].iter().any(|o| o.name == out.name) {
                return Err(ProgramError::rule("outputs", "unique names", format!("two named '{}'", out.name)));
            }
        }
        Ok(())
    }

    /// Number of cache groups: block tables per step.
    pub fn group_count(&self) -> usize {
        self.caches.iter().map(|c| c.group as usize + 1).max().unwrap_or(0)
    }

    /// The window of a cache group, if its caches forget.
    pub fn group_window(&self, group: usize) -> Option<u32> {
        self.caches.iter().find(|c| c.group as usize == group).and_then(|c| c.window)
    }

    /// The program with every custom operation for which `keep` is false replaced by its decomposition.
    ///
    /// # Errors
    /// A decomposition that does not produce what its operation promises.
    pub fn expand_custom(&self, keep: impl Fn(&crate::Custom) -> bool) -> Result<Program, ProgramError> {
        crate::builder::expand_custom(self, &keep)
    }

    fn check_tables(&self) -> Result<(), ProgramError> {
        let mut names = std::collections::HashSet::new();
        for w in &self.weights {
            let place = || format!("weight '{}'", w.name);
            if !names.insert(&w.name) {
                return Err(ProgramError::rule(place(), "one declaration", "two"));
            }
            if w.dims.is_empty() || w.dims.len() > 3 || w.dims.contains(&0) {
                return Err(ProgramError::rule(place(), "1 to 3 dimensions, none 0", format!("{:?}", w.dims)));
            }
            let elements = w.dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
            let row = w.dims.last().copied().unwrap_or(0);
            if elements.is_none() || w.dtype.row_bytes(row).is_none() {
                return Err(ProgramError::rule(
                    place(),
                    format!("rows of whole {} blocks ({} elements)", w.dtype, w.dtype.layout().block_elements),
                    format!("{:?}", w.dims),
                ));
            }
        }
        for (i, c) in self.caches.iter().enumerate() {
            let place = || format!("cache ${i}");
            if c.kv_heads == 0 || c.key_dim == 0 || c.value_dim == 0 {
                return Err(ProgramError::rule(place(), "no dimension 0", format!("{c:?}")));
            }
            if c.layer >= self.info.layers {
                return Err(ProgramError::rule(place(), format!("a layer below {}", self.info.layers), c.layer));
            }
            if c.window == Some(0) {
                return Err(ProgramError::rule(place(), "a window of at least 1", 0));
            }
            if c.group as usize >= self.caches.len() {
                return Err(ProgramError::rule(place(), "groups numbered from 0 without gaps", c.group));
            }
            if self.group_window(c.group as usize) != c.window {
                return Err(ProgramError::rule(place(), "the window of its group", format!("{:?}", c.window)));
            }
        }
        for g in 0..self.group_count() {
            if !self.caches.iter().any(|c| c.group as usize == g) {
                return Err(ProgramError::rule("caches", format!("a cache in group {g}"), "none"));
            }
        }
        Ok(())
    }
}
