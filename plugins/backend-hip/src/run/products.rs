//! Products with matrices, and the forms of activations that they read.

use rocmforge_kernels_hip::{RfExpertSortArgs, RfGatedArgs, RfGemmArgs, RfGemvArgs, RfLinearArgs, RfNormArgs, launch};
use rocmforge_sdk::program::Activation;
use rocmforge_sdk::{DType, Error, Result};

use super::{Run, word};
use crate::plan::{Linear, Matrix, Norm, NormKind, Rounded, RoundedId, View};

/// So many rows of activations and more go through the matrix units.
const MANY_ROWS: usize = 7;

/// An activation's number in the kernels.
pub(super) fn activation(kind: Activation) -> u32 {
    match kind {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
        Activation::GeluErf => 2,
        Activation::GeluQuick => 3,
        Activation::Relu => 4,
        Activation::ReluSquared => 5,
        Activation::Sigmoid => 6,
        Activation::Tanh => 7,
    }
}

/// Addresses of the forms that a step makes; 0 for the others.
#[derive(Clone, Copy, Default)]
pub(super) struct Forms {
    pub(super) codes: u64,
    pub(super) scales: u64,
    pub(super) half: u64,
    pub(super) powers: u64,
}

impl Run<'_> {
    pub(super) fn forms(&self, rounded: Option<RoundedId>, rows: usize) -> Result<Forms> {
        let mut forms = Forms::default();
        let Some(r) = rounded.and_then(|r| self.plan.rounded.get(r.0)) else { return Ok(forms) };
        let many = rows >= MANY_ROWS;
        if r.always_codes || (r.few_as_codes && !many) {
            (forms.codes, forms.scales) = (self.buffer(r.codes)?, self.buffer(r.scales)?);
        }
        if r.many_as_half && many {
            (forms.half, forms.powers) = (self.buffer(r.half)?, self.buffer(r.powers)?);
        }
        Ok(forms)
    }

    pub(super) fn norm(&mut self, norm: &Norm) -> Result<()> {
        let rows = self.rows(norm.x);
        let forms = self.forms(norm.rounded, rows)?;
        let args = RfNormArgs {
            x: self.at(norm.x)?,
            addend: self.maybe(norm.addend)?,
            sum: self.maybe(norm.sum)?,
            weight: self.weights.optional(norm.weight),
            bias: self.weights.optional(norm.bias),
            out: self.maybe(norm.out)?,
            codes: forms.codes,
            scales: forms.scales,
            half: forms.half,
            powers: forms.powers,
            rows: word(rows * norm.heads)?,
            n: word(norm.x.width / norm.heads)?,
            x_stride: word(norm.x.stride)?,
            addend_stride: word(norm.addend.map_or(0, |a| a.stride))?,
            out_stride: word(norm.out.map_or(0, |o| o.stride))?,
            heads: word(norm.heads)?,
            norm: match norm.kind {
                NormKind::None => 0,
                NormKind::Rms => 1,
                NormKind::Layer => 2,
            },
            eps: norm.eps,
            scale: 1.0,
            reserved: 0,
        };
        if args.out == 0 && args.codes == 0 && args.half == 0 && args.sum == 0 {
            return Ok(());
        }
        self.launch(&launch::norm(&args, self.facts.wave))
    }

    pub(super) fn gated(
        &mut self,
        kind: Activation,
        gate: View,
        up: View,
        out: Option<View>,
        rounded: Option<RoundedId>,
    ) -> Result<()> {
        let rows = self.rows(gate);
        let forms = self.forms(rounded, rows)?;
        let args = RfGatedArgs {
            gate: self.at(gate)?,
            up: self.at(up)?,
            out: self.maybe(out)?,
            codes: forms.codes,
            scales: forms.scales,
            half: forms.half,
            powers: forms.powers,
            rows: word(rows)?,
            n: word(gate.width)?,
            gate_stride: word(gate.stride)?,
            up_stride: word(up.stride)?,
            out_stride: word(out.map_or(0, |o| o.stride))?,
            kind: activation(kind),
        };
        self.launch(&launch::gated(&args, self.facts.wave))
    }

    fn rounded(&self, linear: &Linear) -> Result<&Rounded> {
        let found = linear.rounded.and_then(|r| self.plan.rounded.get(r.0));
        found.ok_or_else(|| Error::internal("a product without its activations"))
    }

    pub(super) fn linear(&mut self, linear: &Linear) -> Result<()> {
        let matrix = self.plan.matrices.get(linear.matrix.0).ok_or_else(|| Error::internal("no such matrix"))?;
        if linear.gemm && self.rows(linear.out) >= MANY_ROWS {
            return self.many(linear, matrix);
        }
        let quantised = !matches!(matrix.dtype, DType::F32 | DType::F16 | DType::BF16);
        if self.plan.exact && (quantised || linear.pair.is_some()) {
            return self.exact(linear, matrix);
        }
        let mut args = self.few(linear, matrix, linear.out)?;
        args.pair = word(linear.pair.as_ref().map_or(0, |p| p.rows))?;
        args.activation = linear.pair.as_ref().map_or(0, |p| activation(p.activation));
        if quantised {
            let forms = self.rounded(linear)?;
            (args.x, args.scales) = (self.buffer(forms.codes)?, self.buffer(forms.scales)?);
            args.x_stride = word(matrix.columns)?;
            if let Some((id, &eps)) = linear.rounded.and_then(|id| Some((id, self.unscaled.get(&id.0)?))) {
                (args.x_squares, args.eps) = (self.squares(id)?, eps);
            }
        }
        // One row can be made the next product's activations at once, alone or after the norm that follows.
        let rows = self.rows(linear.out);
        let next =
            linear.pair.as_ref().map(|p| p.rounded).unwrap_or_else(|| linear.next.as_ref().and_then(|n| n.rounded));
        let forms = self.forms(next, rows)?;
        let alone =
            forms.codes != 0 && forms.half == 0 && launch::gemv_fuses(matrix.dtype, &args, linear.next.is_some());
        if alone {
            (args.next_codes, args.next_scales) = (forms.codes, forms.scales);
        }
        if let (Some(norm), Some(id), true) = (&linear.next, next, alone) {
            args.next_norm = 1;
            args.next_weight = self.weights.optional(norm.weight);
            args.squares = self.squares(id)?;
            self.unscaled.insert(id.0, norm.eps);
        }
        self.launch(&launch::gemv(matrix.dtype, &args, self.facts.wave))?;
        match (&linear.next, linear.pair.as_ref().and_then(|p| p.rounded)) {
            _ if alone => Ok(()),
            (Some(norm), _) => self.norm(norm),
            (None, Some(rounded)) => self.round(linear.out, rounded),
            (None, None) => Ok(()),
        }
    }

    /// Where the sums of squares of a row whose codes lack the factor of its norm are: its halves are not made then.
    fn squares(&self, id: RoundedId) -> Result<u64> {
        let forms = self.plan.rounded.get(id.0).ok_or_else(|| Error::internal("squares of no activations"))?;
        self.buffer(forms.half)
    }

    /// Arguments of a product that reads floats, to `out`.
    fn few(&self, linear: &Linear, matrix: &Matrix, out: View) -> Result<RfGemvArgs> {
        let (experts, slots) = match &linear.experts {
            Some((view, top_k)) => (self.at(*view)?, *top_k),
            None => (0, 1),
        };
        let per_row = slots * linear.vectors;
        Ok(RfGemvArgs {
            weight: self.weights.planes(linear.matrix)?.planes,
            x: self.at(linear.x)?,
            out: self.at(out)?,
            bias: self.weights.optional(linear.bias),
            residual: self.maybe(linear.residual)?,
            experts,
            rows: word(matrix.rows)?,
            columns: word(matrix.columns)?,
            items: word(self.rows(out) * per_row)?,
            x_stride: word(if per_row > 1 && !linear.shared { matrix.columns } else { linear.x.stride })?,
            out_stride: word(out.stride / per_row)?,
            residual_stride: word(linear.residual.map_or(0, |r| r.stride))?,
            slots: word(slots)?,
            shared: u32::from(linear.shared),
            ..RfGemvArgs::default()
        })
    }

    /// Floats times weights of any type.
    fn exact(&mut self, linear: &Linear, matrix: &Matrix) -> Result<()> {
        let out = linear.pair.as_ref().and_then(|p| p.both).unwrap_or(linear.out);
        let a = self.few(linear, matrix, out)?;
        let args = RfLinearArgs {
            weight: a.weight,
            x: a.x,
            out: a.out,
            bias: a.bias,
            residual: a.residual,
            experts: a.experts,
            format: matrix.dtype as u32,
            rows: a.rows,
            columns: a.columns,
            items: a.items,
            x_stride: a.x_stride,
            out_stride: a.out_stride,
            residual_stride: a.residual_stride,
            slots: a.slots,
            shared: a.shared,
            reserved: 0,
        };
        self.launch(&launch::linear(&args, self.facts.wave))?;
        self.after(linear)
    }

    /// Many rows through the matrix units.
    fn many(&mut self, linear: &Linear, matrix: &Matrix) -> Result<()> {
        let out = linear.pair.as_ref().and_then(|p| p.both).unwrap_or(linear.out);
        let (a, wave) = (self.few(linear, matrix, out)?, self.facts.wave);
        let forms = self.rounded(linear)?;
        let mut args = RfGemmArgs {
            weight: a.weight,
            x: self.buffer(forms.half)?,
            powers: self.buffer(forms.powers)?,
            out: a.out,
            bias: a.bias,
            residual: a.residual,
            tiles: 0,
            sorted: 0,
            rows: a.rows,
            columns: a.columns,
            items: a.items,
            x_stride: a.columns,
            out_stride: a.out_stride,
            residual_stride: a.residual_stride,
            slots: a.slots,
            shared: a.shared,
            ..RfGemmArgs::default()
        };
        match linear.order {
            None => {
                self.divide(matrix.dtype, &mut args);
                self.launch(&launch::gemm(matrix.dtype, &args, wave))?;
            }
            Some((sorted, tiles)) => {
                let experts = word(matrix.experts)?;
                let tile = launch::gemm_tile(matrix.dtype, args.items, experts);
                let most = launch::expert_tiles(args.items, experts, tile);
                (args.sorted, args.tiles) = (self.buffer(sorted)?, self.buffer(tiles)?);
                let sort = RfExpertSortArgs {
                    experts: a.experts,
                    sorted: args.sorted,
                    tiles: args.tiles,
                    items: args.items,
                    count: experts,
                    tile,
                    most,
                };
                self.launch(&launch::expert_sort(&sort, wave))?;
                self.launch(&launch::gemm_tiles(matrix.dtype, &args, tile, most, wave))?;
            }
        }
        self.after(linear)
    }

    /// Divides a product of few rows by columns, as far as there is memory for the parts.
    fn divide(&self, dtype: DType, args: &mut RfGemmArgs) {
        let tile = launch::gemm_tile(dtype, args.items, 0);
        let (partial, arrived) = (&self.memory.scratch, &self.memory.arrived);
        let fits = |splits: u32| {
            let counters = 4 * u64::from(launch::gemm_counters(args, tile));
            launch::gemm_partial_bytes(args, tile, splits) <= partial.bytes() && counters <= arrived.bytes()
        };
        let most = launch::gemm_splits(args, tile, self.facts.compute_units);
        args.splits = (2..=most).rev().find(|&splits| fits(splits)).unwrap_or(1);
        (args.partial, args.arrived) = (partial.address(), arrived.address());
    }

    /// What follows a product that does not do it itself.
    fn after(&mut self, linear: &Linear) -> Result<()> {
        self.activate(linear)?;
        linear.next.as_ref().map_or(Ok(()), |norm| self.norm(norm))
    }

    /// The gated activation of both halves of a product, and its other forms.
    fn activate(&mut self, linear: &Linear) -> Result<()> {
        let Some(pair) = &linear.pair else { return Ok(()) };
        let Some(both) = pair.both else { return Err(Error::internal("a pair without room for both halves")) };
        let rows = self.rows(linear.out);
        let forms = self.forms(pair.rounded, rows)?;
        let items = rows * (linear.out.width / pair.rows.max(1));
        let gate = self.at(both)?;
        let args = RfGatedArgs {
            gate,
            up: gate + 4 * pair.rows as u64,
            out: self.at(linear.out)?,
            codes: forms.codes,
            scales: forms.scales,
            half: forms.half,
            powers: forms.powers,
            rows: word(items)?,
            n: word(pair.rows)?,
            gate_stride: word(2 * pair.rows)?,
            up_stride: word(2 * pair.rows)?,
            out_stride: word(pair.rows)?,
            kind: activation(pair.activation),
        };
        self.launch(&launch::gated(&args, self.facts.wave))
    }

    /// Makes the other forms of a value.
    pub(super) fn round(&mut self, x: View, rounded: RoundedId) -> Result<()> {
        let heads = self.plan.rounded.get(rounded.0).map_or(1, |r| r.parts);
        let (addend, sum, weight, bias, out, rounded) = (None, None, None, None, None, Some(rounded));
        self.norm(&Norm { kind: NormKind::None, x, addend, sum, weight, bias, eps: 0.0, heads, out, rounded })
    }
}
