//! CPU kernels: scalar, AVX2, AVX-512 and AMX, chosen at run time.
//!
//! Kernels know tensors as slices and nothing of programs, plugins or files. They are written once over a small set of
//! vector operations (`simd`) and compiled for every instruction set; [`Isa`] says which one runs. A [`Pool`] shares
//! out the work. [`Cpu`] holds both, and the scratch memory, and has one method per operation.

mod affinity;
mod attention;
mod columns;
mod cpu;
mod decode;
mod dots;
mod elementwise;
mod error;
mod experts;
mod gemm;
mod gemv;
mod inputs;
mod int8;
mod isa;
mod kv_cache;
mod limits;
mod linear;
mod long;
mod math;
mod matrix;
mod neighbours;
mod norm;
mod packed;
mod pool;
mod rope;
mod shared;
mod simd;
mod workspace;
mod zeros;

pub use attention::{Attention, Sequences};
pub use cpu::Cpu;
pub use elementwise::{Activation, Binary};
pub use error::KernelError;
pub use experts::{ExpertScratch, Experts, Gate, Router, Stack};
pub use inputs::Inputs;
pub use isa::Isa;
pub use kv_cache::{KvCache, KvShape, KvType};
pub use limits::Limits;
pub use linear::{Linear, TOGETHER};
pub use matrix::{Layout, Matrix, can_decode, decode};
pub use norm::Norm;
pub use packed::{Packed, advise_huge_pages, large_zeros};
pub use pool::Pool;
pub use rope::Rope;
pub use workspace::Needs;
pub use zeros::{Zero, zeros};
