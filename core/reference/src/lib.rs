//! A naive interpreter of a [`Program`](rocmforge_program::Program): the executable specification of every operation.
//!
//! Values between operations are f32, as the Program says. Inside an operation sums, exponentials and trigonometric
//! functions are computed in f64 and rounded once at the end, so that a backend is compared with the result that the
//! formula has rather than with one order of summation. Two steps are f32 on purpose, because the models were trained
//! that way: a rope frequency, and the rope angle `position * frequency`.
//!
//! Every loop is the formula of `docs/IR.md` written down. Nothing is fused, blocked, threaded or reused.
//!
//! ```
//! use std::collections::HashMap;
//! use rocmforge_program::{Builder, DType, InputSource, ModelInfo, Op, Step};
//! use rocmforge_reference::Interpreter;
//!
//! let info = ModelInfo { architecture: "demo".into(), vocab_size: 2, hidden_size: 2, layers: 0, context_length: 8 };
//! let mut builder = Builder::new(info);
//! let ids = builder.input(InputSource::TokenIds)?;
//! let table = builder.weight("table", &[2, 2], DType::F32)?;
//! let rows = builder.push(Op::Embed { ids, table, scale: 10.0 })?;
//! builder.output("hidden", rows);
//!
//! let bytes: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
//! let weights = HashMap::from([("table".to_owned(), (DType::F32, bytes))]);
//! let mut interpreter = Interpreter::new(builder.finish()?, &weights)?;
//! let step = Step { token_ids: &[1], positions: &[0], query_start: &[0, 1], context_lens: &[1], ..Step::default() };
//! assert_eq!(interpreter.run(&step)?["hidden"], [30.0, 40.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod attention;
mod dense;
mod elementwise;
mod error;
mod experts;
mod interpreter;
mod layout;
mod sampling;
mod weights;

pub use error::ReferenceError;
pub use interpreter::Interpreter;
pub use sampling::sample;
pub use weights::WeightSource;
