//! CPU kernels: scalar, AVX2 and AVX-512, chosen at run time.
