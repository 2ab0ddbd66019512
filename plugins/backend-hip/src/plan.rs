//! A program as stages: what is launched, in order, on which buffers. Decided once per program.

use rocmforge_sdk::DType;
use rocmforge_sdk::program::{Activation, GateKind, RopeStyle, WeightId};

use crate::arena::{Buffer, BufferId};

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// A buffer of the arena.
    Buffer(BufferId),
    /// Token ids of the step.
    TokenIds,
    /// Positions of the step.
    Positions,
    /// Rows of the step that need logits.
    LogitsRows,
}

/// A value, or columns of one: `width` elements of 4 bytes per row, from element `column` of rows `stride` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) home: Home,
    pub(crate) lead: usize,
    pub(crate) column: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
}

impl View {
    pub(crate) fn buffer(&self) -> Option<BufferId> {
        match self.home {
            Home::Buffer(id) => Some(id),
            _ => None,
        }
    }

    /// Columns of it.
    pub(crate) fn columns(self, start: usize, width: usize) -> View {
        View { column: self.column + start, width, ..self }
    }

    /// Whether its rows follow each other.
    pub(crate) fn is_dense(&self) -> bool {
        self.stride == self.width
    }
}

/// A matrix, or one per expert, made of the rows of one weight or of several, one below the other.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    pub(crate) dtype: DType,
    pub(crate) experts: usize,
    /// Of each expert, in all.
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Weights and their rows.
    pub(crate) parts: Vec<(WeightId, usize)>,
}

/// A number in [`Plan::matrices`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatrixId(pub(crate) usize);

/// Floats of one weight or of several after another; without a weight, zeros.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Vector {
    /// The vectors of each part are in `groups` equal pieces, which alternate: expert by expert.
    pub(crate) groups: usize,
    pub(crate) parts: Vec<(Option<WeightId>, usize)>,
}

impl Vector {
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|(_, n)| n).sum()
    }
}

/// A number in [`Plan::vectors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VectorId(pub(crate) usize);

/// The forms of activations that products read instead of floats. Which of them a step makes depends on its size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounded {
    /// 8-bit integers, one byte each.
    pub(crate) codes: BufferId,
    /// Their scales, 8 bytes per 32.
    pub(crate) scales: BufferId,
    /// f16, each row divided by a power of two.
    pub(crate) half: BufferId,
    /// These powers.
    pub(crate) powers: BufferId,
    /// Vectors per row, each with a power of its own.
    pub(crate) parts: usize,
    /// A product reads codes while there are few rows.
    pub(crate) few_as_codes: bool,
    /// A product reads codes whatever the number of rows.
    pub(crate) always_codes: bool,
    /// A product reads halves while there are many rows.
    pub(crate) many_as_half: bool,
}

/// A number in [`Plan::rounded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RoundedId(pub(crate) usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormKind {
    /// None: rows are copied or rounded.
    None,
    Rms,
    Layer,
}

/// A norm of each row, with an addition before and rounding after.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    pub(crate) kind: NormKind,
    pub(crate) x: View,
    pub(crate) addend: Option<View>,
    /// `x + addend`, where it is needed.
    pub(crate) sum: Option<View>,
    pub(crate) weight: Option<VectorId>,
    pub(crate) bias: Option<VectorId>,
    pub(crate) eps: f32,
    /// Parts of a row that are normed alone.
    pub(crate) heads: usize,
    pub(crate) out: Option<View>,
    pub(crate) rounded: Option<RoundedId>,
}

/// Products with a matrix.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) matrix: MatrixId,
    pub(crate) x: View,
    /// Other forms of x.
    pub(crate) rounded: Option<RoundedId>,
    pub(crate) bias: Option<VectorId>,
    pub(crate) residual: Option<View>,
    /// Gate and up: the result is `activation(gate) * up`.
    pub(crate) pair: Option<Pair>,
    /// Chosen experts and how many each token has.
    pub(crate) experts: Option<(View, usize)>,
    /// Vectors per row of x, as in `[T, heads, d]`.
    pub(crate) vectors: usize,
    /// With experts: a row of x serves all that a token has chosen.
    pub(crate) shared: bool,
    /// The norm of the result, of which only other forms are read.
    pub(crate) next: Option<Box<Norm>>,
    /// Many rows go through the matrix units.
    pub(crate) gemm: bool,
    /// Items in the order of their experts, and tiles of them, for many rows.
    pub(crate) order: Option<(BufferId, BufferId)>,
    pub(crate) out: View,
}

/// A gated activation of the two halves of a product.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    /// Rows of the gate, and of up.
    pub(crate) rows: usize,
    pub(crate) activation: Activation,
    /// Where both halves lie before the activation, when the product cannot do it itself.
    pub(crate) both: Option<View>,
    /// Other forms of the result.
    pub(crate) rounded: Option<RoundedId>,
}

impl Linear {
    /// Whether it reads the floats of x, if only for few rows.
    pub(crate) fn reads_floats(&self, plan: &Plan) -> bool {
        plan.matrices.get(self.matrix.0).is_none_or(|m| !plan.takes_codes(m.dtype))
    }
}

impl Plan {
    /// Whether products with weights of this type take activations of 8 bits.
    pub(crate) fn takes_codes(&self, dtype: DType) -> bool {
        !self.exact && !matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Map {
    Scale(f32, f32),
    Softcap(f32),
    Activation(Activation),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    Add,
    Sub,
    Mul,
}

/// Rotation of heads.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rotation {
    pub(crate) positions: View,
    pub(crate) style: RopeStyle,
    pub(crate) rotary_dim: usize,
    pub(crate) magnitude: f32,
    /// A number in [`Plan::frequencies`].
    pub(crate) frequencies: usize,
}

/// Heads that are normed, rotated, or both.
#[derive(Clone, Debug)]
pub(crate) struct Heads {
    pub(crate) x: View,
    pub(crate) heads: usize,
    /// Weight of the norm.
    pub(crate) weight: Option<VectorId>,
}

/// Norm and rotation of queries and keys, and the write of keys and values to the cache.
#[derive(Clone, Debug)]
pub(crate) struct Rotate {
    pub(crate) q: Option<Heads>,
    pub(crate) q_out: Option<View>,
    pub(crate) k: Option<Heads>,
    pub(crate) v: Option<Heads>,
    /// Epsilon of a norm before the rotation.
    pub(crate) norm: Option<f32>,
    pub(crate) rotation: Option<Rotation>,
    pub(crate) key_dim: usize,
    pub(crate) value_dim: usize,
    /// The cache that k and v are written to, and its group.
    pub(crate) cache: Option<(usize, usize)>,
}

/// Attention over a cache.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    pub(crate) q: View,
    pub(crate) cache: usize,
    pub(crate) group: usize,
    pub(crate) heads: usize,
    pub(crate) scale: f32,
    pub(crate) window: Option<u32>,
    pub(crate) softcap: Option<f32>,
    pub(crate) sinks: Option<VectorId>,
    pub(crate) out: View,
    /// Other forms of the result.
    pub(crate) rounded: Option<RoundedId>,
}

/// Choice of experts.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    pub(crate) logits: View,
    pub(crate) experts: View,
    pub(crate) weights: View,
    pub(crate) top_k: usize,
    pub(crate) gate: GateKind,
    pub(crate) renormalize: bool,
    pub(crate) scale: f32,
    pub(crate) bias: Option<VectorId>,
}

/// What is done at once.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// A named input, which is copied before the first launch.
    Input {
        out: View,
    },
    Embed {
        ids: View,
        table: MatrixId,
        scale: f32,
        out: View,
    },
    Gather {
        x: View,
        rows: View,
        out: View,
    },
    Norm(Norm),
    Linear(Linear),
    Binary {
        kind: Binary,
        a: View,
        b: View,
        broadcast: bool,
        parts: usize,
        out: View,
    },
    Map {
        kind: Map,
        x: View,
        out: View,
    },
    Gated {
        kind: Activation,
        gate: View,
        up: View,
        out: Option<View>,
        rounded: Option<RoundedId>,
    },
    /// `parts` pieces per row, each of `width` elements: from element `from.0` of `from.1` to element `to.0` of `to.1`.
    Copy {
        x: View,
        from: (usize, usize),
        out: View,
        to: (usize, usize),
        width: usize,
        parts: usize,
    },
    Rotate(Rotate),
    PositionScale {
        x: View,
        positions: View,
        beta: f32,
        interval: u32,
        out: View,
    },
    Attention(Attention),
    Router(Router),
    Combine {
        x: View,
        weights: View,
        top_k: usize,
        out: View,
    },
    Pool {
        x: View,
        mean: bool,
        out: View,
    },
    /// A later stage does it.
    Nothing,
}

impl Stage {
    /// The buffers that it reads or writes.
    pub(crate) fn buffers(&self, plan: &Plan) -> Vec<BufferId> {
        let mut found: Vec<BufferId> = vec![];
        let mut views: Vec<View> = vec![];
        let mut rounded: Vec<RoundedId> = vec![];
        match self {
            Stage::Input { out } => views.push(*out),
            Stage::Embed { ids, out, .. } => views.extend([*ids, *out]),
            Stage::Gather { x, rows, out } => views.extend([*x, *rows, *out]),
            Stage::Norm(n) => {
                views.push(n.x);
                views.extend(n.addend.iter().chain(&n.sum).chain(&n.out));
                rounded.extend(n.rounded);
            }
            Stage::Linear(l) => {
                if l.reads_floats(plan) {
                    views.push(l.x);
                }
                rounded.extend(l.rounded);
                if let Some(pair) = &l.pair {
                    views.extend(pair.both);
                    rounded.extend(pair.rounded);
                }
                rounded.extend(l.next.as_ref().and_then(|n| n.rounded));
                found.extend(l.order.iter().flat_map(|(sorted, tiles)| [*sorted, *tiles]));
                views.push(l.out);
                views.extend(l.residual.iter().chain(l.experts.iter().map(|(e, _)| e)));
            }
            Stage::Binary { a, b, out, .. } => views.extend([*a, *b, *out]),
            Stage::Map { x, out, .. } | Stage::Copy { x, out, .. } | Stage::Pool { x, out, .. } => {
                views.extend([*x, *out]);
            }
            Stage::Gated { gate, up, out, rounded: forms, .. } => {
                views.extend([*gate, *up]);
                views.extend(*out);
                rounded.extend(*forms);
            }
            Stage::Rotate(r) => {
                views.extend([&r.q, &r.k, &r.v].into_iter().flatten().map(|h| h.x));
                views.extend(r.q_out);
            }
            Stage::PositionScale { x, out, .. } => views.extend([*x, *out]),
            Stage::Nothing => {}
            Stage::Attention(a) => {
                views.extend([a.q, a.out]);
                rounded.extend(a.rounded);
            }
            Stage::Router(r) => views.extend([r.logits, r.experts, r.weights]),
            Stage::Combine { x, weights, out, .. } => views.extend([*x, *weights, *out]),
        }
        found.extend(views.iter().filter_map(View::buffer));
        let forms = rounded.iter().filter_map(|r| plan.rounded.get(r.0));
        found.extend(forms.flat_map(|r| [r.codes, r.scales, r.half, r.powers]));
        found
    }

    /// The leading dimension whose rows it works on.
    pub(crate) fn lead(&self) -> usize {
        match self {
            Stage::Input { out }
            | Stage::Embed { out, .. }
            | Stage::Gather { out, .. }
            | Stage::Binary { out, .. }
            | Stage::Map { out, .. }
            | Stage::Copy { out, .. }
            | Stage::PositionScale { out, .. }
            | Stage::Combine { out, .. }
            | Stage::Pool { out, .. } => out.lead,
            Stage::Norm(n) => n.x.lead,
            Stage::Gated { gate, .. } => gate.lead,
            Stage::Linear(l) => l.out.lead,
            // Heads of tokens.
            Stage::Rotate(_) | Stage::Nothing => 0,
            Stage::Attention(a) => a.out.lead,
            Stage::Router(r) => r.logits.lead,
        }
    }
}

/// An output of the program.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) name: String,
    pub(crate) view: View,
}

/// A compiled program.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Products take floats, whatever the type of their weights.
    pub(crate) exact: bool,
    pub(crate) stages: Vec<Stage>,
    /// For messages: the node that each stage begins with.
    pub(crate) places: Vec<String>,
    pub(crate) buffers: Vec<Buffer>,
    /// Bytes per row of the arena, by leading dimension.
    pub(crate) row_bytes: [u64; 3],
    pub(crate) matrices: Vec<Matrix>,
    pub(crate) vectors: Vec<Vector>,
    pub(crate) rounded: Vec<Rounded>,
    /// Ropes whose angles differ.
    pub(crate) frequencies: Vec<rocmforge_sdk::program::Rope>,
    /// Names and elements per row of named inputs.
    pub(crate) inputs: Vec<(String, View)>,
    pub(crate) outputs: Vec<Output>,
}

impl Plan {
    /// The rotation at stage `i` and the attention right behind it, where one launch may do both: it reads and writes what
    /// either does at the same time.
    pub(crate) fn rotated_attention(&self, i: usize) -> Option<(&Rotate, &Attention)> {
        let (Some(Stage::Rotate(r)), Some(Stage::Attention(a))) = (self.stages.get(i), self.stages.get(i + 1)) else {
            return None;
        };
        (r.q_out == Some(a.q) && r.cache == Some((a.cache, a.group))).then_some((r, a))
    }

    /// The buffers that must not share bytes while stage `i` runs.
    pub(crate) fn buffers_at(&self, i: usize) -> Vec<BufferId> {
        let mut found = self.stages.get(i).map_or(vec![], |stage| stage.buffers(self));
        if let Some((rotate, _)) = i.checked_sub(1).and_then(|before| self.rotated_attention(before)) {
            found.extend(Stage::Rotate(rotate.clone()).buffers(self));
        }
        found
    }
}
