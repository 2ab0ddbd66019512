//! Invariants of the source tree, as tests.
