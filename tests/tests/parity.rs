//! What burn-qlora claims about its peers, one claim a file.

#[path = "parity/adapters_match_peft.rs"]
mod adapters_match_peft;
#[path = "parity/checkpointing_changes_nothing.rs"]
mod checkpointing_changes_nothing;
#[path = "parity/curve_matches_peft.rs"]
mod curve_matches_peft;
#[path = "parity/eight_bit_follows_the_curve.rs"]
mod eight_bit_follows_the_curve;
#[path = "parity/gradients_match_peft.rs"]
mod gradients_match_peft;
#[path = "parity/packing_changes_nothing.rs"]
mod packing_changes_nothing;
#[path = "parity/recorded.rs"]
mod recorded;
#[path = "parity/training_is_deterministic.rs"]
mod training_is_deterministic;
