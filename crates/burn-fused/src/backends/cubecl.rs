use burn_cubecl::CubeBackend;

use crate::FusedOps;

/// The default bodies: composed operations, which the fusion backend merges where it can.
impl FusedOps for CubeBackend {}
