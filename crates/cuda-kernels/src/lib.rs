//! cuda-kernels.
