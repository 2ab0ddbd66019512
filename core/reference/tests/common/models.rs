use rocmforge_gguf::GgufFile;
use rocmforge_program::{
    Activation, Attention, Builder, DType, GateKind, InputSource, ModelInfo, Op, Program, ProgramError, Rope,
    RopeScaling, RopeStyle, Router, ValueId, WeightId, output,
};
use rocmforge_reference::WeightSource;

/// The tensors of a file.
pub struct Weights<'a>(pub &'a GgufFile);

impl WeightSource for Weights<'_> {
    fn weight(&self, name: &str) -> Option<(DType, &[u8])> {
        self.0.tensor(name).map(|t| (t.info.dtype, t.bytes()))
    }
}

type Result<T> = std::result::Result<T, ProgramError>;

/// Writes the Program of a LLaMA, Mixtral, Qwen2, Qwen2-MoE or Gemma 2 file node by node.
pub struct Model<'a> {
    file: &'a GgufFile,
    arch: String,
    b: Builder,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    eps: f32,
}

impl Model<'_> {
    pub fn program(file: &GgufFile) -> Result<Program> {
        let arch = file.metadata().str("general.architecture").expect("an architecture").to_owned();
        let number = |key: &str| file.metadata().u64(&format!("{arch}.{key}")).map(|n| n as usize);
        let hidden = number("embedding_length").expect("a width");
        let heads = number("attention.head_count").expect("heads");
        let info = ModelInfo {
            architecture: arch.clone(),
            vocab_size: file.find("token_embd.weight").expect("an embedding table").dims[1] as usize,
            hidden_size: hidden,
            layers: number("block_count").expect("layers") as u32,
            context_length: number("context_length").expect("a context length") as u32,
        };
        let kv_heads = number("attention.head_count_kv").unwrap_or(heads);
        let head_dim = number("attention.key_length").unwrap_or(hidden / heads);
        let eps = file.metadata().f32(&format!("{arch}.attention.layer_norm_rms_epsilon")).expect("an epsilon");
        let layers = info.layers;
        let mut m = Model { file, arch, b: Builder::new(info), hidden, heads, kv_heads, head_dim, eps };
        let ids = m.b.input(InputSource::TokenIds)?;
        let table = m.weight("token_embd.weight")?;
        let scale = if m.gemma() { (hidden as f32).sqrt() } else { 1.0 };
        let mut x = m.b.push(Op::Embed { ids, table, scale })?;
        for layer in 0..layers {
            m.b.set_layer(Some(layer));
            x = m.layer(layer, x)?;
        }
        m.b.set_layer(None);
        m.head(x)?;
        m.b.finish()
    }

    fn gemma(&self) -> bool {
        self.arch == "gemma2"
    }

    fn number(&self, key: &str) -> Option<usize> {
        self.file.metadata().u64(&format!("{}.{key}", self.arch)).map(|n| n as usize)
    }

    fn float(&self, key: &str) -> Option<f32> {
        self.file.metadata().f32(&format!("{}.{key}", self.arch))
    }

    fn optional_weight(&mut self, name: &str) -> Result<Option<WeightId>> {
        let Some(info) = self.file.find(name) else { return Ok(None) };
        let dims: Vec<usize> = info.dims.iter().rev().map(|&d| d as usize).collect();
        // The gate of the shared expert is a matrix with one row, stored as a vector.
        let dims = if name.ends_with("gate_inp_shexp.weight") { vec![1, self.hidden] } else { dims };
        self.b.weight(name, &dims, info.dtype).map(Some)
    }

    fn weight(&mut self, name: &str) -> Result<WeightId> {
        let id = self.optional_weight(name)?;
        Ok(id.unwrap_or_else(|| panic!("no tensor {name}")))
    }

    fn linear(&mut self, x: ValueId, name: &str) -> Result<ValueId> {
        let weight = self.weight(&format!("{name}.weight"))?;
        let bias = self.optional_weight(&format!("{name}.bias"))?;
        self.b.push(Op::Linear { x, weight, bias })
    }

    fn norm(&mut self, x: ValueId, name: &str) -> Result<ValueId> {
        let weight = self.weight(&format!("{name}.weight"))?;
        self.b.push(Op::RmsNorm { x, weight: Some(weight), eps: self.eps })
    }

    /// The sublayer's norm after it, where the file has one.
    fn post_norm(&mut self, x: ValueId, name: &str) -> Result<ValueId> {
        if self.file.find(&format!("{name}.weight")).is_some() { self.norm(x, name) } else { Ok(x) }
    }

    fn layer(&mut self, layer: u32, x: ValueId) -> Result<ValueId> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let normed = self.norm(x, &name("attn_norm"))?;
        let attended = self.attention(layer, normed)?;
        let attended = self.post_norm(attended, &name("post_attention_norm"))?;
        let x = self.b.push(Op::Add { a: x, b: attended })?;
        let normed = self.norm(x, &name("ffn_norm"))?;
        let fed = match self.file.find(&name("ffn_gate_inp.weight")) {
            Some(_) => self.experts(layer, normed)?,
            None => self.mlp(normed, [name("ffn_gate"), name("ffn_up"), name("ffn_down")])?,
        };
        let fed = self.post_norm(fed, &name("post_ffw_norm"))?;
        self.b.push(Op::Add { a: x, b: fed })
    }

    fn attention(&mut self, layer: u32, x: ValueId) -> Result<ValueId> {
        let window = match self.number("attention.sliding_window") {
            Some(w) if self.gemma() && layer.is_multiple_of(2) => Some(w as u32),
            _ => None,
        };
        let (heads, kv_heads) = (self.heads, self.kv_heads);
        let mut project = |part: &str, heads: usize| -> Result<ValueId> {
            let x = self.linear(x, &format!("blk.{layer}.attn_{part}"))?;
            self.b.push(Op::Reshape { x, dims: vec![heads, self.head_dim] })
        };
        let (q, k, v) = (project("q", heads)?, project("k", kv_heads)?, project("v", kv_heads)?);
        let (q, k) = (self.rope(q)?, self.rope(k)?);
        let cache = self.b.cache(kv_heads, self.head_dim, self.head_dim, window);
        let out = self.b.push(Op::Attention(Attention {
            q,
            k: Some(k),
            v: Some(v),
            cache,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            window,
            softcap: self.float("attn_logit_softcapping"),
            sinks: None,
        }))?;
        let out = self.b.push(Op::Reshape { x: out, dims: vec![heads * self.head_dim] })?;
        self.linear(out, &format!("blk.{layer}.attn_output"))
    }

    fn rope(&mut self, x: ValueId) -> Result<ValueId> {
        let factor = self.float("rope.scaling.factor").unwrap_or(1.0);
        let kind = self.file.metadata().str(&format!("{}.rope.scaling.type", self.arch));
        let (scaling, magnitude) = match kind {
            Some("linear") => (RopeScaling::Linear { factor }, 1.0),
            Some("yarn") => {
                let original_context = self.number("rope.scaling.original_context_length").expect("a context") as u32;
                let scaling = RopeScaling::Yarn { factor, original_context, beta_fast: 32.0, beta_slow: 1.0 };
                (scaling, 0.1 * factor.ln() + 1.0)
            }
            _ => (RopeScaling::None, 1.0),
        };
        let rope = Rope {
            x,
            positions: self.b.input(InputSource::Positions)?,
            style: if self.arch == "llama" { RopeStyle::Interleaved } else { RopeStyle::Half },
            rotary_dim: self.number("rope.dimension_count").unwrap_or(self.head_dim),
            base: self.float("rope.freq_base").unwrap_or(10000.0),
            scaling,
            magnitude,
            factors: self.optional_weight("rope_freqs.weight")?,
            sections: None,
        };
        self.b.push(Op::Rope(rope))
    }

    fn mlp(&mut self, x: ValueId, [gate, up, down]: [String; 3]) -> Result<ValueId> {
        let (gate, up) = (self.linear(x, &gate)?, self.linear(x, &up)?);
        let kind = if self.gemma() { Activation::GeluTanh } else { Activation::Silu };
        let x = self.b.push(Op::GatedAct { gate, up, kind })?;
        self.linear(x, &down)
    }

    fn experts(&mut self, layer: u32, x: ValueId) -> Result<ValueId> {
        let name = |part: &str| format!("blk.{layer}.ffn_{part}");
        let logits = self.linear(x, &name("gate_inp"))?;
        let chosen = self.b.push_many(Op::Router(Router {
            logits,
            top_k: self.number("expert_used_count").expect("experts per token"),
            gate: GateKind::Softmax,
            renormalize: self.arch == "llama",
            scale: 1.0,
            selection_bias: None,
        }))?;
        let (experts, weights) = (chosen[0], chosen[1]);
        let gate = self.expert_linear(x, experts, &name("gate_exps"))?;
        let up = self.expert_linear(x, experts, &name("up_exps"))?;
        let x_experts = self.b.push(Op::GatedAct { gate, up, kind: Activation::Silu })?;
        let down = self.expert_linear(x_experts, experts, &name("down_exps"))?;
        let routed = self.b.push(Op::ExpertCombine { x: down, weights })?;
        if self.file.find(&name("gate_inp_shexp.weight")).is_none() {
            return Ok(routed);
        }
        let shared = self.mlp(x, [name("gate_shexp"), name("up_shexp"), name("down_shexp")])?;
        let gate = self.linear(x, &name("gate_inp_shexp"))?;
        let gate = self.b.push(Op::Unary { x: gate, kind: Activation::Sigmoid })?;
        let shared = self.b.push(Op::Mul { a: shared, b: gate })?;
        self.b.push(Op::Add { a: routed, b: shared })
    }

    fn expert_linear(&mut self, x: ValueId, experts: ValueId, name: &str) -> Result<ValueId> {
        let weight = self.weight(&format!("{name}.weight"))?;
        self.b.push(Op::ExpertLinear { x, experts, weight, bias: None })
    }

    fn head(&mut self, x: ValueId) -> Result<()> {
        let rows = self.b.input(InputSource::LogitsRows)?;
        let x = self.b.push(Op::GatherRows { x, rows })?;
        let x = self.norm(x, "output_norm")?;
        let tied = self.file.find("output.weight").is_none();
        let mut logits = self.linear(x, if tied { "token_embd" } else { "output" })?;
        if let Some(cap) = self.float("final_logit_softcapping") {
            logits = self.b.push(Op::Softcap { x: logits, cap })?;
        }
        self.b.output(output::LOGITS, logits);
        Ok(())
    }
}
