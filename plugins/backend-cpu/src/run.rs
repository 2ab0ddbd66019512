//! One step: the nodes in order.

use rocmforge_kernels_cpu::TOGETHER;
use rocmforge_sdk::program::{Element, InputSource, Op, Step, ValueId};
use rocmforge_sdk::{Error, Result};

use crate::executable::Memory;
use crate::fusion::{Item, Layer};
use crate::plan::Plan;
use crate::profile;
use crate::regions::Place;

/// A node in a step.
pub(crate) struct Context<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) step: &'a Step<'a>,
    /// Its first result.
    pub(crate) first: ValueId,
}

impl Context<'_> {
    /// The place of the first result.
    pub(crate) fn out(&self) -> Result<Place> {
        self.plan.place(self.first)
    }

    /// The place of a further result.
    pub(crate) fn further(&self, i: usize) -> Result<Place> {
        self.plan.place(ValueId(self.first.0 + i as u32))
    }

    /// Whether a value holds indices.
    pub(crate) fn is_index(&self, value: ValueId) -> bool {
        self.plan.types.get(value).is_some_and(|t| t.element == Element::Index)
    }
}

impl Memory {
    /// Runs a step; its outputs stay until the next one.
    pub(crate) fn run(&mut self, plan: &Plan, step: &Step<'_>) -> Result<()> {
        if self.caches.len() != plan.program.caches.len() {
            return Err(Error::invalid("a step before the KV cache was allocated"));
        }
        let rows = [step.tokens(), step.sequences(), step.logits_rows.len()];
        if rows[0] > plan.rows[0] || rows[1] > plan.rows[1] {
            return Err(Error::invalid(format!(
                "step: expected at most {} tokens and {} sequences, found {} and {}",
                plan.rows[0], plan.rows[1], rows[0], rows[1]
            )));
        }
        self.values.set_rows(rows)?;
        self.indices.set_rows(rows)?;
        self.ropes.new_step();
        self.steps += 1;
        self.cpu.begin(step.query_start.windows(2).map(|ends| (ends[1] - ends[0]) as usize));
        for item in &plan.items {
            let first = plan.firsts[item.node()];
            if rows[plan.lead(item)?] == 0 {
                continue;
            }
            let start = self.profile.start();
            match item {
                Item::Node(node) => self.node(&Context { plan, step, first }, &plan.program.nodes[*node].op),
                Item::Linears(x, source, layers) => self.layers(plan, step, *x, *source, layers),
            }
            .map_err(|e| located(plan, item.node(), e))?;
            self.profile.end(start, || profile::label(&plan.program, item));
        }
        Ok(())
    }

    /// Linear layers; what they read is made before them if they do not make it themselves.
    fn layers(
        &mut self,
        plan: &Plan,
        step: &Step<'_>,
        x: ValueId,
        source: Option<usize>,
        layers: &[Option<Layer>; TOGETHER],
    ) -> Result<()> {
        let source = source.map(|node| &plan.program.nodes[node].op);
        let made = match source {
            Some(op) if !self.rounds(layers)? => self.node(&Context { plan, step, first: x }, op).map(|()| None)?,
            other => other,
        };
        self.linears(plan, x, made, layers)
    }

    fn node(&mut self, c: &Context<'_>, op: &Op) -> Result<()> {
        match op {
            Op::Input { source } => self.input(c, source),
            Op::Embed { ids, table, scale } => self.embed(c, *ids, *table, *scale),
            Op::GatherRows { x, rows } => self.gather_rows(c, *x, *rows),
            Op::Linear { .. } => Err(Error::internal("a linear layer outside of its loop")),
            Op::RmsNorm { x, weight, eps } => self.norm(c, *x, (*weight, None), *eps, false),
            Op::LayerNorm { x, weight, bias, eps } => self.norm(c, *x, (*weight, *bias), *eps, true),
            Op::Add { a, b } => self.binary(c, rocmforge_kernels_cpu::Binary::Add, *a, *b),
            Op::Sub { a, b } => self.binary(c, rocmforge_kernels_cpu::Binary::Sub, *a, *b),
            Op::Mul { a, b } => self.binary(c, rocmforge_kernels_cpu::Binary::Mul, *a, *b),
            Op::Scale { x, mul, add } => self.map(c, *x, |cpu, x, out| cpu.scale(x, *mul, *add, out)),
            Op::Unary { x, kind } => {
                self.map(c, *x, |cpu, x, out| cpu.unary(crate::operations::activation(*kind), x, out))
            }
            Op::Softcap { x, cap } => self.map(c, *x, |cpu, x, out| cpu.softcap(x, *cap, out)),
            Op::GatedAct { gate, up, kind } => self.gated(c, *gate, *up, *kind),
            Op::Split { x, sizes } => self.split(c, *x, sizes),
            Op::Concat { xs } => self.concat(c, xs),
            // Its result lies where its operand does.
            Op::Reshape { .. } => Ok(()),
            Op::Slice { x, start, .. } => self.columns(c, *x, *start, c.first),
            Op::Rope(rope) => self.rope(c, rope),
            Op::PositionScale { x, positions, beta, interval } => {
                self.position_scale(c, *x, *positions, *beta, *interval)
            }
            Op::Attention(attention) => self.attention(c, attention),
            Op::Router(router) => self.router(c, router),
            Op::ExpertLinear { x, experts, weight, bias } => self.expert_linear(c, *x, *experts, *weight, *bias),
            Op::ExpertCombine { x, weights } => self.expert_combine(c, *x, *weights),
            Op::MeanPool { x } => self.pool(c, *x, true),
            Op::LastPool { x } => self.pool(c, *x, false),
            Op::Custom(_) => Err(Error::internal("a custom operation after compilation")),
        }
    }

    fn input(&mut self, c: &Context<'_>, source: &InputSource) -> Result<()> {
        let place = c.out()?;
        let indices = match source {
            InputSource::TokenIds => c.step.token_ids,
            InputSource::Positions => c.step.positions,
            InputSource::LogitsRows => c.step.logits_rows,
            InputSource::Named { name, .. } => {
                let to = self.values.get_mut(place);
                let found = c.step.inputs.iter().find(|i| i.name == name);
                let Some(found) = found.filter(|i| i.data.len() == to.len()) else {
                    let size = found.map_or("none".to_owned(), |i| format!("{} elements", i.data.len()));
                    return Err(Error::invalid(format!(
                        "input '{name}': expected {} elements, found {size}",
                        to.len()
                    )));
                };
                to.copy_from_slice(found.data);
                return Ok(());
            }
        };
        self.indices.get_mut(place).copy_from_slice(indices);
        Ok(())
    }
}

fn located(plan: &Plan, node: usize, error: Error) -> Error {
    Error { message: format!("{}: {}", plan.place_of_node(node), error.message), kind: error.kind }
}
