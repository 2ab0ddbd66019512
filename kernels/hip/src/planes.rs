//! Quantised weights on the device: the bytes of the file, each field of its blocks in an array of its own.
//!
//! Blocks of 18, 34 or 210 bytes are not aligned to anything. Their fields, gathered, are: a lane loads 16 bytes of codes at once,
//! and neighbouring lanes load neighbouring bytes. No bit changes, and no byte is added.

use rocmforge_quant::{DType, tables};

use crate::args::{RfPlanes, RfRepackArgs};

/// A field of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Where it starts in the block.
    pub offset: u32,
    /// Its bytes.
    pub length: u32,
}

const fn field(offset: u32, length: u32) -> Field {
    Field { offset, length }
}

/// The fields of a type's blocks in the order of their planes; `None` for types that the kernels do not read.
pub fn fields(dtype: DType) -> Option<&'static [Field]> {
    const F32: &[Field] = &[field(0, 4)];
    const HALF: &[Field] = &[field(0, 2)];
    const Q4_0: &[Field] = &[field(2, 16), field(0, 2)];
    const Q4_1: &[Field] = &[field(4, 16), field(0, 4)];
    const Q5_0: &[Field] = &[field(6, 16), field(2, 4), field(0, 2)];
    const Q5_1: &[Field] = &[field(8, 16), field(4, 4), field(0, 4)];
    const Q8_0: &[Field] = &[field(2, 32), field(0, 2)];
    const Q2_K: &[Field] = &[field(16, 64), field(0, 16), field(80, 4)];
    const Q3_K: &[Field] = &[field(32, 64), field(0, 32), field(96, 12), field(108, 2)];
    const Q4_K: &[Field] = &[field(16, 128), field(0, 16)];
    const Q5_K: &[Field] = &[field(48, 128), field(16, 32), field(0, 16)];
    const Q6_K: &[Field] = &[field(0, 128), field(128, 64), field(192, 16), field(208, 2)];
    const IQ4_XS: &[Field] = &[field(8, 128), field(0, 8)];
    const MXFP4: &[Field] = &[field(1, 16), field(0, 1)];
    const NVFP4: &[Field] = &[field(4, 32), field(0, 4)];
    const Q8_1: &[Field] = &[field(4, 32), field(0, 2)];
    const Q8_K: &[Field] = &[field(4, 256), field(0, 4)];
    const IQ2_XXS: &[Field] = &[field(2, 64), field(0, 2)];
    const IQ2_XS: &[Field] = &[field(2, 64), field(66, 8), field(0, 2)];
    const IQ2_S: &[Field] = &[field(2, 64), field(66, 16), field(0, 2)];
    const IQ3_XXS: &[Field] = &[field(2, 64), field(66, 32), field(0, 2)];
    const IQ3_S: &[Field] = &[field(2, 64), field(66, 44), field(0, 2)];
    const IQ1_S: &[Field] = &[field(2, 32), field(34, 16), field(0, 2)];
    const IQ1_M: &[Field] = &[field(0, 32), field(32, 16), field(48, 8)];
    const TQ1_0: &[Field] = &[field(0, 52), field(52, 2)];
    const TQ2_0: &[Field] = &[field(0, 64), field(64, 2)];
    Some(match dtype {
        DType::F32 => F32,
        DType::F16 | DType::BF16 => HALF,
        DType::Q4_0 | DType::IQ4_NL | DType::Q1_0 | DType::Q2_0 => Q4_0,
        DType::Q4_1 => Q4_1,
        DType::Q5_0 => Q5_0,
        DType::Q5_1 => Q5_1,
        DType::Q8_0 => Q8_0,
        DType::Q2_K => Q2_K,
        DType::Q3_K => Q3_K,
        DType::Q4_K => Q4_K,
        DType::Q5_K => Q5_K,
        DType::Q6_K => Q6_K,
        DType::IQ4_XS => IQ4_XS,
        DType::MXFP4 => MXFP4,
        DType::NVFP4 => NVFP4,
        DType::Q8_1 => Q8_1,
        DType::Q8_K => Q8_K,
        DType::IQ2_XXS => IQ2_XXS,
        DType::IQ2_XS => IQ2_XS,
        DType::IQ2_S => IQ2_S,
        DType::IQ3_XXS => IQ3_XXS,
        DType::IQ3_S => IQ3_S,
        DType::IQ1_S => IQ1_S,
        DType::IQ1_M => IQ1_M,
        DType::TQ1_0 => TQ1_0,
        DType::TQ2_0 => TQ2_0,
        DType::F64 | DType::I8 | DType::I16 | DType::I32 | DType::I64 => return None,
    })
}

/// As what the device holds weights of this type: integers and doubles, which no model's matrices are of, as floats, and every
/// other type as it is.
pub fn stored_as(dtype: DType) -> DType {
    if fields(dtype).is_some() { dtype } else { DType::F32 }
}

/// The table of grid points that the kernels need beside weights of this type, as they read it; `None` for types without one.
pub fn grid(dtype: DType) -> Option<Vec<u8>> {
    fn bytes<const N: usize>(points: &[[i8; N]]) -> Vec<u8> {
        points.as_flattened().iter().map(|&value| value as u8).collect()
    }
    Some(match dtype {
        DType::IQ2_XXS => bytes(&tables::IQ2_XXS_GRID),
        DType::IQ2_XS => bytes(&tables::IQ2_XS_GRID),
        DType::IQ2_S => bytes(&tables::IQ2_S_GRID),
        DType::IQ3_XXS => bytes(&tables::IQ3_XXS_GRID),
        DType::IQ3_S => bytes(&tables::IQ3_S_GRID),
        DType::IQ1_S | DType::IQ1_M => bytes(&tables::IQ1_GRID),
        _ => return None,
    })
}

/// Where each plane starts in a matrix of `blocks` blocks; `None` for a type without planes or a size that overflows.
/// A matrix whose address is a multiple of 16 has every plane aligned to its words.
pub fn plane_offsets(dtype: DType, blocks: u64) -> Option<[u64; 4]> {
    let (mut offsets, mut next) = ([0; 4], 0u64);
    for (offset, field) in offsets.iter_mut().zip(fields(dtype)?) {
        *offset = next;
        next = next.checked_add(blocks.checked_mul(u64::from(field.length))?)?;
    }
    Some(offsets)
}

/// A matrix in planes on the device.
#[derive(Clone, Copy, Debug)]
pub struct Planes {
    /// The type of its elements.
    pub dtype: DType,
    /// Device addresses of the planes.
    pub planes: RfPlanes,
    /// Blocks, over all rows.
    pub blocks: u64,
}

impl Planes {
    /// A matrix of `elements` elements at device address `base`, a multiple of 16; `None` for a type that the kernels do not
    /// read or elements that are not whole blocks. It takes no more than the bytes of the file's tensor. A type with a [`grid`]
    /// needs [`Planes::with_grid`].
    pub fn new(dtype: DType, base: u64, elements: u64) -> Option<Planes> {
        let per_block = dtype.layout().block_elements as u64;
        let blocks = elements / per_block;
        let offsets = plane_offsets(dtype, blocks).filter(|_| elements.is_multiple_of(per_block))?;
        Some(Planes { dtype, planes: RfPlanes { plane: offsets.map(|offset| base + offset) }, blocks })
    }

    /// With the type's [`grid`] at this device address, a multiple of 8.
    pub fn with_grid(mut self, address: u64) -> Planes {
        // Types with a grid have at most three fields.
        self.planes.plane[3] = address;
        self
    }

    /// The arguments that move `count` blocks of the file's layout at device address `source` to the planes, from block
    /// `first` on. `source` is a multiple of 4.
    pub fn repack(&self, source: u64, first: u64, count: u64) -> RfRepackArgs {
        let fields = fields(self.dtype).unwrap_or(&[]);
        let (mut offset, mut length) = ([0; 4], [0; 4]);
        for (i, field) in fields.iter().enumerate() {
            (offset[i], length[i]) = (field.offset, field.length);
        }
        RfRepackArgs {
            planes: self.planes,
            source,
            first,
            count,
            block_bytes: self.dtype.layout().block_bytes as u32,
            fields: fields.len() as u32,
            offset,
            length,
        }
    }
}
