//! 4-bit NormalFloat block quantization, bit-compatible with bitsandbytes.
