//! Tests of burn-qlora against recorded outputs of its peers.
