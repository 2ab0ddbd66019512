use std::sync::Arc;

use rocmforge_kernels_cpu::{Cpu, ExpertScratch, Isa, KvCache, KvShape, KvType, Pool};
use rocmforge_sdk::program::{Element, OutputBuffer, Step};
use rocmforge_sdk::{
    BoundWeight, CompileOptions, DType, Error, Executable, KernelTime, Limits, MemoryNeed, Program, Result,
};

use crate::kernel_error;
use crate::options::{ActivationOption, CpuOptions};
use crate::plan::Plan;
use crate::profile::Profile;
use crate::regions::Regions;
use crate::rope_tables::RopeTables;
use crate::weights::Weights;

/// A program with its memory.
#[derive(Debug)]
pub struct CpuExecutable {
    pub(crate) plan: Arc<Plan>,
    pub(crate) memory: Memory,
    kv_type: KvType,
    shapes: Vec<KvShape>,
    threads: usize,
}

/// Everything that a step reads and writes.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) cpu: Cpu,
    pub(crate) weights: Weights,
    pub(crate) values: Regions<f32>,
    pub(crate) indices: Regions<u32>,
    pub(crate) caches: Vec<KvCache>,
    pub(crate) ropes: RopeTables,
    pub(crate) expert_scratch: ExpertScratch,
    pub(crate) scores: Vec<f32>,
    /// One number per token, for `position_scale`.
    pub(crate) factors: Vec<f32>,
    pub(crate) profile: Profile,
    /// Steps so far.
    pub(crate) steps: u64,
}

impl CpuExecutable {
    pub(crate) fn new(
        pool: Arc<Pool>,
        isa: Isa,
        cpu_options: &CpuOptions,
        program: Program,
        options: CompileOptions,
    ) -> Result<CpuExecutable> {
        let shapes = program.caches.iter().map(|c| KvShape {
            heads: c.kv_heads,
            key_dim: c.key_dim,
            value_dim: c.value_dim,
            block_size: options.block_size,
        });
        let shapes = shapes.collect();
        let kv_type = cpu_options.kv_type.into();
        let rounded = cpu_options.activations == ActivationOption::Int8;
        let threads = pool.threads();
        let plan = Plan::new(program, options, threads)?;
        // A model whose weights are all of single precision is computed in it, attention of prompts too.
        let rounds = rounded && plan.program.weights.iter().any(|weight| weight.dtype != DType::F32);
        let memory = Memory {
            cpu: Cpu::new(pool, isa).rounding(rounds),
            weights: Weights::new(&plan.program, isa, rounded),
            values: Regions::new(plan.f32_widths),
            indices: Regions::new(plan.index_widths),
            caches: vec![],
            ropes: RopeTables::new(&plan.program),
            expert_scratch: ExpertScratch::default(),
            scores: vec![],
            factors: vec![],
            profile: Profile::default(),
            steps: 0,
        };
        Ok(CpuExecutable { plan: Arc::new(plan), memory, kv_type, shapes, threads })
    }

    /// Bytes per block of each cache group.
    fn block_bytes(&self) -> Vec<u64> {
        let mut bytes = vec![0u64; self.plan.program.group_count()];
        for (cache, shape) in self.plan.program.caches.iter().zip(&self.shapes) {
            let group = &mut bytes[cache.group as usize];
            *group = group.saturating_add(shape.block_bytes(self.kv_type));
        }
        bytes
    }
}

impl Executable for CpuExecutable {
    fn memory(&self) -> MemoryNeed {
        let activations = self.plan.region_bytes()
            + self.plan.expert_bytes()
            + self.plan.needs.bytes(self.threads)
            + self.memory.ropes.bytes(self.plan.rows[0])
            + 4 * self.plan.rows[0] as u64;
        MemoryNeed { weights: self.memory.weights.bytes(), activations, cache_block: self.block_bytes() }
    }

    fn bind(&mut self, weight: BoundWeight) -> Result<()> {
        self.memory.weights.bind(self.memory.cpu.pool(), weight)
    }

    fn finalize(&mut self) -> Result<()> {
        let (plan, memory) = (&self.plan, &mut self.memory);
        let experts = plan.experts;
        memory.ropes.finalize(&memory.weights, plan.rows[0])?;
        memory.values.set_rows(plan.rows)?;
        memory.indices.set_rows(plan.rows)?;
        memory.scores = vec![0.0; experts.experts];
        memory.factors = vec![0.0; plan.rows[0]];
        memory
            .cpu
            .reserve(plan.needs, plan.rows[1])
            .and_then(|()| memory.expert_scratch.reserve(experts.rows, experts.inputs, experts.outputs))
            .map_err(|e| kernel_error(format_args!("scratch memory for {} tokens", plan.rows[0]), e))
    }

    fn allocate_cache(&mut self, blocks: &[u64]) -> Result<()> {
        // First, so that old and new are never held together.
        self.memory.caches.clear();
        for (cache, shape) in self.plan.program.caches.iter().zip(&self.shapes) {
            let n = blocks.get(cache.group as usize).copied().unwrap_or(0);
            let made = usize::try_from(n).ok().and_then(|n| KvCache::new(*shape, self.kv_type, n));
            let Some(made) = made else {
                self.memory.caches.clear();
                let mib = (shape.block_bytes(self.kv_type) as f64 * n as f64) / f64::from(1 << 20);
                return Err(Error::out_of_memory(format!(
                    "KV cache of layer {}: {n} blocks, {mib:.1} MiB, of {} such layers; use a smaller cache",
                    cache.layer,
                    self.shapes.len()
                )));
            };
            self.memory.caches.push(made);
        }
        Ok(())
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<()> {
        let plan = Arc::clone(&self.plan);
        self.memory.run(&plan, step)
    }

    fn wait(&mut self, outputs: &mut [OutputBuffer<'_>]) -> Result<()> {
        for output in outputs {
            let decl = self.plan.program.outputs.iter().find(|o| o.name == output.name);
            let Some(decl) = decl else {
                return Err(Error::invalid(format!("output '{}': the program has none of this name", output.name)));
            };
            let place = self.plan.place(decl.value)?;
            let index = self.plan.types.get(decl.value).is_some_and(|t| t.element == Element::Index);
            let found = self.memory.values.rows(place.lead) * place.width;
            if output.data.len() != found {
                return Err(Error::invalid(format!(
                    "output '{}': expected room for {found} elements, found {}",
                    output.name,
                    output.data.len()
                )));
            }
            if index {
                let from = self.memory.indices.get(place);
                output.data.iter_mut().zip(from).for_each(|(to, &from)| *to = from as f32);
            } else {
                output.data.copy_from_slice(self.memory.values.get(place));
            }
        }
        Ok(())
    }

    fn profile(&mut self, measure: bool) -> Result<Vec<KernelTime>> {
        Ok(self.memory.profile.switch(measure))
    }

    fn limits(&mut self) -> Result<Limits> {
        let limits = self.memory.cpu.measure_limits().map_err(|e| kernel_error("limits", e))?;
        Ok(Limits { bytes_per_second: Some(limits.read), products_per_second: limits.products })
    }
}
