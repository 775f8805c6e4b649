use burn_flex::Flex;

use crate::FusedOps;

impl FusedOps for Flex {}
