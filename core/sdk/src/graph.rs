use rocmforge_program::{Activation, Builder, InputSource, ModelInfo, Op, Program, ValueId, WeightId, output};

use crate::error::{Error, Result};
use crate::model::Model;

/// Builds the program of a model file. Weights are named without prefix and suffix: inside layer 3, `attn_norm` is
/// the tensor `blk.3.attn_norm.weight`. Every tensor is checked against the file as it is used.
///
/// There are helpers for whole blocks ([`attention`](Graph::attention), [`gated_mlp`](Graph::gated_mlp),
/// [`moe`](Graph::moe)), for single operations, and [`builder`](Graph::builder) for the rest; they mix freely. A graph
/// ends with [`head`](Graph::head), or with outputs of one's own and [`finish`](Graph::finish). A model whose layers
/// end in a layer norm and whose logits are scaled:
///
/// ```no_run
/// use rocmforge_sdk::program::{InputSource, Op, ValueId, output};
/// use rocmforge_sdk::{Dims, Graph, Program, Result};
///
/// fn scaled_head(mut g: Graph<'_>, x: ValueId, dims: &Dims, scale: f32) -> Result<Program> {
///     g.no_layer();
///     let weight = Some(g.weight("output_norm", &[dims.hidden])?);
///     let rows = g.builder().input(InputSource::LogitsRows)?;
///     let x = g.builder().push(Op::GatherRows { x, rows })?;
///     let x = g.builder().push(Op::LayerNorm { x, weight, bias: None, eps: dims.eps })?;
///     let logits = g.linear(x, "output", dims.vocab)?;
///     let logits = g.builder().push(Op::Scale { x: logits, mul: scale, add: 0.0 })?;
///     g.builder().output(output::LOGITS, logits);
///     g.finish()
/// }
/// ```
pub struct Graph<'m> {
    pub(crate) model: &'m Model<'m>,
    pub(crate) builder: Builder,
}

impl<'m> Graph<'m> {
    /// An empty program for this file.
    pub fn new(model: &'m Model<'m>, info: ModelInfo) -> Graph<'m> {
        Graph { model, builder: Builder::new(info) }
    }

    /// The nodes that follow belong to this layer.
    pub fn layer(&mut self, layer: u32) {
        self.builder.set_layer(Some(layer));
    }

    /// The nodes that follow belong to no layer.
    pub fn no_layer(&mut self) {
        self.builder.set_layer(None);
    }

    /// The builder itself, for what the helpers do not cover. An operation with several results (`Op::Split`,
    /// `Op::Router`) goes through [`Builder::push_many`].
    pub fn builder(&mut self) -> &mut Builder {
        &mut self.builder
    }

    /// The full name of a tensor, e.g. `blk.3.attn_norm.weight`.
    pub fn tensor_name(&self, name: &str, suffix: &str) -> String {
        match self.builder.layer() {
            Some(layer) => format!("blk.{layer}.{name}.{suffix}"),
            None => format!("{name}.{suffix}"),
        }
    }

    /// Whether the file has the tensor.
    pub fn has(&self, name: &str) -> bool {
        self.model.tensor(&self.tensor_name(name, "weight")).is_some()
    }

    /// The weight `name` of the current layer.
    ///
    /// # Errors
    /// The file has no such tensor, or with other dimensions.
    pub fn weight(&mut self, name: &str, dims: &[usize]) -> Result<WeightId> {
        let full = self.tensor_name(name, "weight");
        self.tensor(&full, dims)
    }

    /// The bias `name` of the current layer.
    ///
    /// # Errors
    /// As [`weight`](Graph::weight).
    pub fn bias(&mut self, name: &str, dims: &[usize]) -> Result<WeightId> {
        let full = self.tensor_name(name, "bias");
        self.tensor(&full, dims)
    }

    /// The bias `name` of the current layer, if the file has it.
    ///
    /// # Errors
    /// It has other dimensions.
    pub fn optional_bias(&mut self, name: &str, dims: &[usize]) -> Result<Option<WeightId>> {
        let full = self.tensor_name(name, "bias");
        self.optional_tensor(&full, dims)
    }

    /// A tensor by its full name.
    ///
    /// # Errors
    /// As [`weight`](Graph::weight).
    pub fn tensor(&mut self, name: &str, dims: &[usize]) -> Result<WeightId> {
        match self.optional_tensor(name, dims)? {
            Some(id) => Ok(id),
            None => Err(Error::invalid(format!("tensor '{name}' of {dims:?} is missing from the file"))),
        }
    }

    /// A tensor by its full name, if the file has it.
    ///
    /// # Errors
    /// It has other dimensions.
    pub fn optional_tensor(&mut self, name: &str, dims: &[usize]) -> Result<Option<WeightId>> {
        let Some(tensor) = self.model.tensor(name) else { return Ok(None) };
        if tensor.dims != dims {
            return Err(Error::invalid(format!(
                "tensor '{name}': expected {dims:?} (outermost first) from the metadata, found {:?}",
                tensor.dims
            )));
        }
        Ok(Some(self.builder.weight(name, dims, tensor.dtype)?))
    }

    /// The innermost dimension of a value.
    pub fn width(&self, x: ValueId) -> usize {
        self.builder.type_of(x).map_or(0, |t| t.shape.last())
    }

    /// Positions of the tokens.
    ///
    /// # Errors
    /// None in practice.
    pub fn positions(&mut self) -> Result<ValueId> {
        Ok(self.builder.input(InputSource::Positions)?)
    }

    /// Token embeddings from `token_embd.weight`, times `scale`.
    ///
    /// # Errors
    /// The tensor is missing or has other dimensions.
    pub fn embed(&mut self, scale: f32) -> Result<ValueId> {
        let (vocab, hidden) = (self.builder.info().vocab_size, self.builder.info().hidden_size);
        let table = self.tensor("token_embd.weight", &[vocab, hidden])?;
        let ids = self.builder.input(InputSource::TokenIds)?;
        Ok(self.builder.push(Op::Embed { ids, table, scale })?)
    }

    /// `x` through the matrix `name` to `out` columns, without bias.
    ///
    /// # Errors
    /// The tensor is missing or has other dimensions.
    pub fn linear(&mut self, x: ValueId, name: &str, out: usize) -> Result<ValueId> {
        let weight = self.weight(name, &[out, self.width(x)])?;
        Ok(self.builder.push(Op::Linear { x, weight, bias: None })?)
    }

    /// `x` through the matrix `name` with a bias.
    ///
    /// # Errors
    /// A tensor is missing or has other dimensions.
    pub fn linear_with_bias(&mut self, x: ValueId, name: &str, out: usize, bias: Option<WeightId>) -> Result<ValueId> {
        let weight = self.weight(name, &[out, self.width(x)])?;
        Ok(self.builder.push(Op::Linear { x, weight, bias })?)
    }

    /// RMS norm with the weight `name`, over the last dimension.
    ///
    /// # Errors
    /// The tensor is missing or has other dimensions.
    pub fn rms_norm(&mut self, x: ValueId, name: &str, eps: f32) -> Result<ValueId> {
        let weight = Some(self.weight(name, &[self.width(x)])?);
        Ok(self.builder.push(Op::RmsNorm { x, weight, eps })?)
    }

    /// `a + b`.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        Ok(self.builder.push(Op::Add { a, b })?)
    }

    /// `x + h`, with `h` through the RMS norm of this name first where there is one (norms after a sublayer).
    ///
    /// # Errors
    /// The norm's tensor is missing or has other dimensions; shapes that differ.
    pub fn add_normed(&mut self, x: ValueId, h: ValueId, norm: Option<&str>, eps: f32) -> Result<ValueId> {
        let h = match norm {
            Some(name) => self.rms_norm(h, name, eps)?,
            None => h,
        };
        self.add(x, h)
    }

    /// `f(x)`.
    ///
    /// # Errors
    /// None in practice.
    pub fn unary(&mut self, x: ValueId, kind: Activation) -> Result<ValueId> {
        Ok(self.builder.push(Op::Unary { x, kind })?)
    }

    /// The end of a model: final norm, the rows that need logits, and the head — `output.weight`, or the embedding
    /// where the file has none (a tied head). `softcap` is the final one.
    ///
    /// # Errors
    /// A tensor is missing or has other dimensions.
    pub fn head(mut self, x: ValueId, eps: f32, softcap: Option<f32>) -> Result<Program> {
        self.no_layer();
        let (vocab, hidden) = (self.builder.info().vocab_size, self.builder.info().hidden_size);
        let rows = self.builder.input(InputSource::LogitsRows)?;
        let x = self.builder.push(Op::GatherRows { x, rows })?;
        let x = self.rms_norm(x, "output_norm", eps)?;
        let weight = match self.optional_tensor("output.weight", &[vocab, hidden])? {
            Some(weight) => weight,
            None => self.tensor("token_embd.weight", &[vocab, hidden])?,
        };
        let bias = self.optional_tensor("output.bias", &[vocab])?;
        let mut logits = self.builder.push(Op::Linear { x, weight, bias })?;
        if let Some(cap) = softcap {
            logits = self.builder.push(Op::Softcap { x: logits, cap })?;
        }
        self.builder.output(output::LOGITS, logits);
        self.finish()
    }

    /// The program as it is, for models with another end than [`head`](Graph::head). Its outputs have to be named
    /// before, with [`Builder::output`].
    ///
    /// # Errors
    /// A rule about the program as a whole, such as that it has an output.
    pub fn finish(self) -> Result<Program> {
        Ok(self.builder.finish()?)
    }
}
