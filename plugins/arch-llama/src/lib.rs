//! Llama 2 and 3 and their relatives.
