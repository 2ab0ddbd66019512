//! The Program: what an architecture plugin produces and a backend plugin compiles.
//!
//! A [`Program`] is flat SSA without control flow. Layers are unrolled and tagged. Sizes are constants except for one
//! leading symbolic dimension per value ([`Lead`]): the tokens of a step, its sequences, or the rows that need logits.
//! Context length is data (block tables), never a shape, so nothing is recompiled as a context grows.
//!
//! The architecture emits the naive form; fusion belongs to the backend. `docs/IR.md` describes every operation, and
//! the crate `rocmforge-reference` executes it.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod builder;
mod dump;
mod embeddings;
mod error;
mod infer;
mod infer_model;
mod op;
mod program;
pub mod rope;
mod sampling;
mod shape;
mod step;

pub use builder::Builder;
pub use error::ProgramError;
pub use infer::{Types, infer_types};
pub use op::{
    Activation, Attention, CacheId, Custom, GateKind, InputSource, Op, Rope, RopeScaling, RopeStyle, Router, ValueId,
    WeightId,
};
pub use program::{CacheDecl, IR_VERSION, ModelInfo, Node, OutputDecl, Program, WeightDecl, input, output};
pub use rocmforge_quant::DType;
pub use sampling::{LEAST_TEMPERATURE, NO_TOKEN, RowSampling};
pub use shape::{Element, Lead, Shape, ValueType};
pub use step::{GroupTables, NO_BLOCK, NamedInput, OutputBuffer, Step, StepLimits};
