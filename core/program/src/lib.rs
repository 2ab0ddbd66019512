//! The Program: a flat SSA description of a model, its builder, validator and text form.
