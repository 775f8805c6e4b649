//! CubeCL kernels that compute on NF4 weights.
