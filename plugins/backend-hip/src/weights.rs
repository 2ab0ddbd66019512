//! Weights on the device: a few large allocations, in which matrices lie in planes and vectors as floats.

use std::sync::Arc;
use std::time::Duration;

use rocmforge_kernels_hip::{Planes, grid};
use rocmforge_quant::dequantize;
use rocmforge_sdk::program::{Program, rope};
use rocmforge_sdk::{BoundWeight, DType, Error, Result};

use crate::gpu::Gpu;
use crate::memory::DeviceBuffer;
use crate::plan::{Matrix, MatrixId, Plan, VectorId};
use crate::upload::{Target, Uploader};

/// Bytes of an allocation, unless a single matrix needs more.
const SLAB: u64 = 2 << 30;

/// Every matrix and vector starts on a multiple of this.
const ALIGNMENT: u64 = 256;

/// Where something lies: an allocation and an offset in it.
#[derive(Clone, Copy, Debug)]
struct Place {
    slab: usize,
    offset: u64,
}

/// Decides which allocation things go to.
#[derive(Debug, Default)]
struct Slabs {
    sizes: Vec<u64>,
}

impl Slabs {
    fn place(&mut self, bytes: u64) -> Result<Place> {
        let bytes = bytes.max(1).checked_next_multiple_of(ALIGNMENT);
        let bytes = bytes.ok_or_else(|| Error::invalid("a weight too large to count"))?;
        let slab = self.sizes.len().saturating_sub(1);
        match self.sizes.last_mut() {
            Some(last) if *last + bytes <= SLAB => {
                *last += bytes;
                Ok(Place { slab, offset: *last - bytes })
            }
            _ => {
                self.sizes.push(bytes);
                Ok(Place { slab: self.sizes.len() - 1, offset: 0 })
            }
        }
    }
}

/// The weights of a plan.
pub(crate) struct Weights {
    gpu: Arc<Gpu>,
    patience: Duration,
    matrices: Vec<Place>,
    vectors: Vec<Place>,
    frequencies: Vec<Place>,
    /// Tables that kernels need for weights of a type.
    grids: Vec<(DType, Place)>,
    sizes: Vec<u64>,
    slabs: Vec<DeviceBuffer>,
    planes: Vec<Planes>,
    /// Factors of rope frequencies as they come, by the number of the rope.
    factors: Vec<Option<Vec<f32>>>,
    uploader: Option<Uploader>,
}

fn elements(matrix: &Matrix) -> Result<u64> {
    let elements = [matrix.experts, matrix.rows, matrix.columns].iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
    elements.ok_or_else(|| Error::invalid("a weight too large to count"))
}

impl Weights {
    /// Decides where everything goes; nothing is allocated yet.
    pub(crate) fn new(gpu: &Arc<Gpu>, plan: &Plan, patience: Duration) -> Result<Weights> {
        let mut slabs = Slabs::default();
        let mut matrices = vec![];
        for matrix in &plan.matrices {
            let bytes = matrix.dtype.row_bytes(usize::try_from(elements(matrix)?).unwrap_or(usize::MAX));
            let bytes = bytes.ok_or_else(|| Error::unsupported(format!("rows of partial {} blocks", matrix.dtype)))?;
            matrices.push(slabs.place(bytes as u64)?);
        }
        let vectors = plan.vectors.iter().map(|v| slabs.place(4 * v.len() as u64)).collect::<Result<_>>()?;
        let ropes = plan.frequencies.iter();
        let frequencies = ropes.map(|r| slabs.place(2 * r.rotary_dim as u64)).collect::<Result<_>>()?;
        let mut grids: Vec<(DType, Place)> = vec![];
        for matrix in &plan.matrices {
            if let Some(points) = grid(matrix.dtype)
                && grids.iter().all(|(dtype, _)| *dtype != matrix.dtype)
            {
                grids.push((matrix.dtype, slabs.place(points.len() as u64)?));
            }
        }
        Ok(Weights {
            gpu: Arc::clone(gpu),
            patience,
            matrices,
            vectors,
            frequencies,
            grids,
            sizes: slabs.sizes,
            slabs: vec![],
            planes: vec![],
            factors: vec![None; plan.frequencies.len()],
            uploader: None,
        })
    }

    /// Bytes on the device.
    pub(crate) fn bytes(&self) -> u64 {
        self.sizes.iter().sum()
    }

    fn allocate(&mut self, plan: &Plan) -> Result<()> {
        if !self.slabs.is_empty() || self.sizes.is_empty() {
            return Ok(());
        }
        let (total, free) = (self.bytes(), self.gpu.free_memory());
        if free > 0 && total > free {
            return Err(Error::out_of_memory(format!(
                "device {}: weights need {} MiB, {} of {} MiB are free; give the device fewer layers (gpu_layers) or \
                 take a smaller quantisation",
                self.gpu.facts.id(),
                total >> 20,
                free >> 20,
                self.gpu.facts.memory >> 20
            )));
        }
        for &bytes in &self.sizes {
            self.slabs.push(DeviceBuffer::new(&self.gpu, bytes, "weights")?);
        }
        for (matrix, place) in plan.matrices.iter().zip(&self.matrices) {
            let planes = Planes::new(matrix.dtype, self.address(*place), elements(matrix)?);
            let planes = planes.ok_or_else(|| Error::unsupported(format!("weights of type {}", matrix.dtype)))?;
            let grid = self.grids.iter().find(|(dtype, _)| *dtype == matrix.dtype);
            self.planes.push(grid.map_or(planes, |(_, place)| planes.with_grid(self.address(*place))));
        }
        self.uploader = Some(Uploader::new(&self.gpu, total, self.patience)?);
        Ok(())
    }

    fn address(&self, place: Place) -> u64 {
        self.slabs.get(place.slab).map_or(0, |slab| slab.address() + place.offset)
    }

    /// Uploads a weight to every place that wants it.
    pub(crate) fn bind(&mut self, plan: &Plan, weight: &BoundWeight) -> Result<()> {
        self.allocate(plan)?;
        let Some(mut uploader) = self.uploader.take() else {
            return Err(Error::internal("a weight after the last one"));
        };
        let result = self.upload(&mut uploader, plan, weight);
        self.uploader = Some(uploader);
        result.map_err(|e| Error { message: format!("weight '{}': {}", weight.name, e.message), ..e })
    }

    fn upload(&mut self, uploader: &mut Uploader, plan: &Plan, weight: &BoundWeight) -> Result<()> {
        let bytes = weight.bytes();
        let mut floats: Option<Vec<f32>> = None;
        let mut decoded = || -> Result<Vec<f32>> {
            if floats.is_none() {
                let mut out = vec![0.0; weight.dims.iter().product()];
                dequantize(weight.dtype, bytes, &mut out).map_err(Error::unsupported)?;
                floats = Some(out);
            }
            Ok(floats.clone().unwrap_or_default())
        };
        for (matrix, planes) in plan.matrices.iter().zip(&self.planes) {
            let block = matrix.dtype.layout();
            let row_blocks = (matrix.columns / block.block_elements) as u64;
            let mut before = 0;
            let decoded: Vec<u8> =
                match matrix.parts.iter().any(|(id, _)| *id == weight.id) && weight.dtype != matrix.dtype {
                    true => decoded()?.iter().flat_map(|f| f.to_ne_bytes()).collect(),
                    false => vec![],
                };
            let bytes = if decoded.is_empty() { bytes } else { &decoded };
            for &(id, rows) in &matrix.parts {
                if id == weight.id {
                    let own = rows * row_blocks as usize * block.block_bytes;
                    for (expert, piece) in bytes.chunks(own.max(1)).enumerate() {
                        let first = (expert * matrix.rows + before) as u64 * row_blocks;
                        uploader.matrix(planes, first, piece)?;
                    }
                }
                before += rows;
            }
        }
        for (vector, place) in plan.vectors.iter().zip(&self.vectors) {
            let group = vector.len() / vector.groups.max(1);
            let mut before = 0;
            for &(id, len) in &vector.parts {
                let own = len / vector.groups.max(1);
                if id == Some(weight.id) {
                    for (g, piece) in decoded()?.chunks(own.max(1)).enumerate() {
                        self.floats(uploader, *place, g * group + before, piece)?;
                    }
                }
                before += own;
            }
        }
        for (rope, factors) in plan.frequencies.iter().zip(&mut self.factors) {
            if rope.factors == Some(weight.id) {
                *factors = Some(decoded()?);
            }
        }
        Ok(())
    }

    /// The parts of vectors that no weight gives.
    fn zeros(&self, uploader: &mut Uploader, plan: &Plan) -> Result<()> {
        for (vector, place) in plan.vectors.iter().zip(&self.vectors) {
            let group = vector.len() / vector.groups.max(1);
            let mut before = 0;
            for &(id, len) in &vector.parts {
                let own = len / vector.groups.max(1);
                let zeros = vec![0.0; if id.is_none() { own } else { 0 }];
                (0..vector.groups).try_for_each(|g| self.floats(uploader, *place, g * group + before, &zeros))?;
                before += own;
            }
        }
        Ok(())
    }

    fn floats(&self, uploader: &mut Uploader, place: Place, first: usize, floats: &[f32]) -> Result<()> {
        let bytes: Vec<u8> = floats.iter().flat_map(|f| f.to_ne_bytes()).collect();
        let buffer = self.slabs.get(place.slab).ok_or_else(|| Error::internal("a vector without memory"))?;
        uploader.plain(&Target { buffer, offset: place.offset + 4 * first as u64 }, &bytes)
    }

    /// All weights have come.
    pub(crate) fn finalize(&mut self, plan: &Plan, program: &Program) -> Result<()> {
        debug_assert!(plan.matrices.iter().flat_map(|m| &m.parts).all(|(w, _)| w.index() < program.weights.len()));
        self.allocate(plan)?;
        let Some(mut uploader) = self.uploader.take() else { return Ok(()) };
        self.zeros(&mut uploader, plan)?;
        for &(dtype, place) in &self.grids {
            let buffer = self.slabs.get(place.slab).ok_or_else(|| Error::internal("a grid without memory"))?;
            let target = Target { buffer, offset: place.offset };
            uploader.plain(&target, &grid(dtype).unwrap_or_default())?;
        }
        for (i, rope) in plan.frequencies.iter().enumerate() {
            let frequencies = rope::frequencies(rope, self.factors[i].as_deref());
            self.floats(&mut uploader, self.frequencies[i], 0, &frequencies)?;
        }
        uploader.finish()
    }

    pub(crate) fn planes(&self, id: MatrixId) -> Result<&Planes> {
        self.planes.get(id.0).ok_or_else(|| Error::internal("a matrix without memory"))
    }

    pub(crate) fn vector(&self, id: VectorId) -> u64 {
        self.vectors.get(id.0).map_or(0, |&place| self.address(place))
    }

    /// The same for a vector that may be absent.
    pub(crate) fn optional(&self, id: Option<VectorId>) -> u64 {
        id.map_or(0, |id| self.vector(id))
    }

    pub(crate) fn frequencies(&self, rope: usize) -> u64 {
        self.frequencies.get(rope).map_or(0, |&place| self.address(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_share_few_allocations() {
        let mut slabs = Slabs::default();
        let places: Vec<_> = [100, 300, SLAB, 5].map(|bytes| slabs.place(bytes).expect("a place")).to_vec();
        let found: Vec<_> = places.iter().map(|p| (p.slab, p.offset)).collect();
        assert_eq!(found, [(0, 0), (0, 256), (1, 0), (2, 0)]);
        assert_eq!(slabs.sizes, [768, SLAB, 256]);
    }
}
