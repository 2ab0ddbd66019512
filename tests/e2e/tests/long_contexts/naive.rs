//! Two small architectures written down in f64, with attention computed only for the positions that are asked for. The
//! reference interpreter attends from every position, which takes too long at 32k; below that the test compares the two.

use rocmforge_gguf::GgufFile;

/// What is not in the tensors.
pub struct Naive<'f> {
    pub file: &'f GgufFile,
    /// Gemma 2 or else Llama.
    pub gemma: bool,
    /// Window of each layer. All but the last must have one that is short.
    pub windows: Vec<Option<usize>>,
    pub hidden: usize,
    pub head_dim: usize,
}

const ROPE_BASE: f64 = 10_000.0;
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
        let scale = if self.gemma { (self.hidden as f64).sqrt() } else { 1.0 };
        let row = |t: u32| table[t as usize * self.hidden..][..self.hidden].iter().map(|x| x * scale).collect();
        let mut xs: Vec<Vec<f64>> = tokens.iter().map(|&t| row(t)).collect();
        let all: Vec<usize> = (0..tokens.len()).collect();
        for layer in 0..self.windows.len() {
            let last = layer + 1 == self.windows.len();
            xs = self.layer(layer, &xs, if last { positions } else { &all });
        }
        let (norm, head) =
            (self.tensor("output_norm.weight"), if self.gemma { table } else { self.tensor("output.weight") });
        let finish = |logit: f64| if self.gemma { cap(logit, FINAL_CAP) } else { logit };
        xs.iter().map(|x| multiply(&head, &rms_norm(x, &norm)).into_iter().map(finish).collect()).collect()
    }

    /// The layer's results at `wanted`.
    fn layer(&self, layer: usize, xs: &[Vec<f64>], wanted: &[usize]) -> Vec<Vec<f64>> {
        let tensor = |part: &str| self.tensor(&format!("blk.{layer}.{part}.weight"));
        let norm = tensor("attn_norm");
        let (wq, wk, wv, wo) = (tensor("attn_q"), tensor("attn_k"), tensor("attn_v"), tensor("attn_output"));
        let normed: Vec<Vec<f64>> = xs.iter().map(|x| rms_norm(x, &norm)).collect();
        let keys: Vec<Vec<f64>> = normed.iter().enumerate().map(|(p, x)| self.rotated(multiply(&wk, x), p)).collect();
        let values: Vec<Vec<f64>> = normed.iter().map(|x| multiply(&wv, x)).collect();
        let (ffn_norm, gate, up, down) = (tensor("ffn_norm"), tensor("ffn_gate"), tensor("ffn_up"), tensor("ffn_down"));
        let post = self.gemma.then(|| (tensor("post_attention_norm"), tensor("post_ffw_norm")));
        let finish = |&p: &usize| {
            let oldest = self.windows[layer].map_or(0, |w| (p + 1).saturating_sub(w));
            let q = self.rotated(multiply(&wq, &normed[p]), p);
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
            if self.gemma { cap(s, ATTENTION_CAP) } else { s }
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

    /// Rotated by the position; frequency and angle in f32, as the models were trained.
    fn rotated(&self, mut heads: Vec<f64>, position: usize) -> Vec<f64> {
        let half = self.head_dim / 2;
        for head in heads.chunks_exact_mut(self.head_dim) {
            for i in 0..half {
                let frequency = ROPE_BASE.powf(-2.0 * i as f64 / self.head_dim as f64) as f32;
                let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
                let (first, second) = if self.gemma { (i, i + half) } else { (2 * i, 2 * i + 1) };
                let (a, b) = (head[first], head[second]);
                head[first] = a * cos - b * sin;
                head[second] = b * cos + a * sin;
            }
        }
        heads
    }

    fn activation(&self, x: f64) -> f64 {
        if self.gemma {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        } else {
            x / (1.0 + (-x).exp())
        }
    }
}
