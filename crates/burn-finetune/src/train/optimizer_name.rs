//! The format of AdamW's moments by the name of the optimizer, as the settings of a run give it.

use burn_paged::StateDtype;
use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::Serializer;

const F32: &str = "adamw";
const DYNAMIC_8: &str = "adamw-8bit";

pub(super) fn serialize<S: Serializer>(
    state: &StateDtype,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match state {
        StateDtype::F32 => F32,
        StateDtype::Dynamic8 => DYNAMIC_8,
    })
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<StateDtype, D::Error> {
    match &*String::deserialize(deserializer)? {
        F32 => Ok(StateDtype::F32),
        DYNAMIC_8 => Ok(StateDtype::Dynamic8),
        other => Err(D::Error::unknown_variant(other, &[F32, DYNAMIC_8])),
    }
}
