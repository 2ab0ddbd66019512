//! A naive f32 interpreter of a Program: the executable specification.
