//! Small architectures written down in f64, with attention computed only for the positions that are asked for. The
//! reference interpreter attends from every position, which takes too long at 32k; below that the test compares the two.

use rocmforge_gguf::GgufFile;

/// Which model it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Llama,
    Gemma2,
    Gemma3,
}

/// What is different in the layers.
#[derive(Clone)]
pub struct Layer {
    /// All layers but the last must have one that is short.
    pub window: Option<usize>,
    /// Radians per position, of each pair.
    pub frequencies: Vec<f32>,
    /// Multiplies sine and cosine.
    pub magnitude: f64,
}

/// What is not in the tensors.
pub struct Naive<'f> {
    pub file: &'f GgufFile,
    pub family: Family,
    pub layers: Vec<Layer>,
    pub hidden: usize,
    pub head_dim: usize,
}

pub const ATTENTION_CAP: f64 = 50.0;
pub const FINAL_CAP: f64 = 30.0;
const EPS: f64 = 1e-6;

fn cap(x: f64, cap: f64) -> f64 {
    cap * (x / cap).tanh()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn multiply(matrix: &[f64], x: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(x.len()).map(|row| dot(row, x)).collect()
}

fn rms_norm(x: &[f64], weight: &[f64]) -> Vec<f64> {
    let scale = (dot(x, x) / x.len() as f64 + EPS).sqrt().recip();
    x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
}

impl Naive<'_> {
    fn tensor(&self, name: &str) -> Vec<f64> {
        let bytes = self.file.tensor(name).unwrap_or_else(|| panic!("{name}")).bytes();
        bytes.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect()
    }

    /// Logits after each of `positions`, which must be in order.
    pub fn logits(&self, tokens: &[u32], positions: &[usize]) -> Vec<Vec<f64>> {
        let table = self.tensor("token_embd.weight");
        let gemma = self.gemma();
        let scale = if gemma { (self.hidden as f64).sqrt() } else { 1.0 };
        let row = |t: u32| table[t as usize * self.hidden..][..self.hidden].iter().map(|x| x * scale).collect();
        let mut xs: Vec<Vec<f64>> = tokens.iter().map(|&t| row(t)).collect();
        let all: Vec<usize> = (0..tokens.len()).collect();
        for layer in 0..self.layers.len() {
            let last = layer + 1 == self.layers.len();
            xs = self.layer(layer, &xs, if last { positions } else { &all });
        }
        let (norm, head) =
            (self.tensor("output_norm.weight"), if gemma { table } else { self.tensor("output.weight") });
        let finish = |logit: f64| if self.family == Family::Gemma2 { cap(logit, FINAL_CAP) } else { logit };
        xs.iter().map(|x| multiply(&head, &rms_norm(x, &norm)).into_iter().map(finish).collect()).collect()
    }

    /// The layer's results at `wanted`.
    fn layer(&self, layer: usize, xs: &[Vec<f64>], wanted: &[usize]) -> Vec<Vec<f64>> {
        let tensor = |part: &str| self.tensor(&format!("blk.{layer}.{part}.weight"));
        let norm = tensor("attn_norm");
        let (wq, wk, wv, wo) = (tensor("attn_q"), tensor("attn_k"), tensor("attn_v"), tensor("attn_output"));
        let normed: Vec<Vec<f64>> = xs.iter().map(|x| rms_norm(x, &norm)).collect();
        let norms = (self.family == Family::Gemma3).then(|| (tensor("attn_q_norm"), tensor("attn_k_norm")));
        let rule = &self.layers[layer];
        let key = |(p, x): (usize, &Vec<f64>)| {
            self.rotated(self.per_head(multiply(&wk, x), norms.as_ref().map(|n| &n.1)), p, rule)
        };
        let keys: Vec<Vec<f64>> = normed.iter().enumerate().map(key).collect();
        let values: Vec<Vec<f64>> = normed.iter().map(|x| multiply(&wv, x)).collect();
        let (ffn_norm, gate, up, down) = (tensor("ffn_norm"), tensor("ffn_gate"), tensor("ffn_up"), tensor("ffn_down"));
        let post = self.gemma().then(|| (tensor("post_attention_norm"), tensor("post_ffw_norm")));
        let finish = |&p: &usize| {
            let oldest = rule.window.map_or(0, |w| (p + 1).saturating_sub(w));
            let q = self.rotated(self.per_head(multiply(&wq, &normed[p]), norms.as_ref().map(|n| &n.0)), p, rule);
            let heads = q.chunks_exact(self.head_dim);
            let seen: Vec<f64> = heads.flat_map(|q| self.attend(q, &keys[oldest..=p], &values[oldest..=p])).collect();
            let mut h = multiply(&wo, &seen);
            if let Some((norm, _)) = &post {
                h = rms_norm(&h, norm);
            }
            let x: Vec<f64> = xs[p].iter().zip(&h).map(|(x, h)| x + h).collect();
            let h = rms_norm(&x, &ffn_norm);
            let inner: Vec<f64> =
                multiply(&gate, &h).into_iter().zip(multiply(&up, &h)).map(|(g, u)| self.activation(g) * u).collect();
            let mut h = multiply(&down, &inner);
            if let Some((_, norm)) = &post {
                h = rms_norm(&h, norm);
            }
            x.iter().zip(&h).map(|(x, h)| x + h).collect()
        };
        wanted.iter().map(finish).collect()
    }

    fn attend(&self, q: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>]) -> Vec<f64> {
        let score = |k: &Vec<f64>| {
            let s = dot(q, k) / (self.head_dim as f64).sqrt();
            if self.family == Family::Gemma2 { cap(s, ATTENTION_CAP) } else { s }
        };
        let scores: Vec<f64> = keys.iter().map(score).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (mut sum, mut out) = (0.0, vec![0.0; self.head_dim]);
        for (s, v) in scores.iter().zip(values) {
            let weight = (s - top).exp();
            sum += weight;
            out.iter_mut().zip(v).for_each(|(o, v)| *o += weight * v);
        }
        out.iter().map(|o| o / sum).collect()
    }

    /// Through the RMS norm of heads, where there is one.
    fn per_head(&self, heads: Vec<f64>, norm: Option<&Vec<f64>>) -> Vec<f64> {
        match norm {
            Some(norm) => heads.chunks_exact(self.head_dim).flat_map(|head| rms_norm(head, norm)).collect(),
            None => heads,
        }
    }

    /// Rotated by the position; frequency and angle in f32, as the models were trained.
    fn rotated(&self, mut heads: Vec<f64>, position: usize, rule: &Layer) -> Vec<f64> {
        let half = self.head_dim / 2;
        for head in heads.chunks_exact_mut(self.head_dim) {
            for i in 0..half {
                let (sin, cos) = f64::from(position as f32 * rule.frequencies[i]).sin_cos();
                let (sin, cos) = (sin * rule.magnitude, cos * rule.magnitude);
                let (first, second) = if self.gemma() { (i, i + half) } else { (2 * i, 2 * i + 1) };
                let (a, b) = (head[first], head[second]);
                head[first] = a * cos - b * sin;
                head[second] = b * cos + a * sin;
            }
        }
        heads
    }

    fn gemma(&self) -> bool {
        self.family != Family::Llama
    }

    fn activation(&self, x: f64) -> f64 {
        if self.gemma() {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        } else {
            x / (1.0 + (-x).exp())
        }
    }
}
