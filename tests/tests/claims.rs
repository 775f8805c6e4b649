//! The claims of burn-qlora about its peers, one claim a file.

#[path = "claims/adapters_match_peft.rs"]
mod adapters_match_peft;
#[path = "claims/chat_templates_match_transformers.rs"]
mod chat_templates_match_transformers;
#[path = "claims/checkpointing_changes_nothing.rs"]
mod checkpointing_changes_nothing;
#[path = "claims/choices_match_lm_eval.rs"]
mod choices_match_lm_eval;
#[path = "claims/curve_matches_peft.rs"]
mod curve_matches_peft;
#[path = "claims/eight_bit_follows_the_curve.rs"]
mod eight_bit_follows_the_curve;
#[cfg(feature = "flex")]
#[path = "claims/every_isa_follows_the_curve.rs"]
mod every_isa_follows_the_curve;
#[path = "claims/exports_match_peft.rs"]
mod exports_match_peft;
#[path = "claims/family_adapters_match_peft.rs"]
mod family_adapters_match_peft;
#[path = "claims/gradients_match_peft.rs"]
mod gradients_match_peft;
#[path = "claims/head_adapters_match_peft.rs"]
mod head_adapters_match_peft;
#[path = "claims/loftq_matches_peft.rs"]
mod loftq_matches_peft;
#[path = "claims/lora_plus_matches_peft.rs"]
mod lora_plus_matches_peft;
#[path = "claims/packing_changes_nothing.rs"]
mod packing_changes_nothing;
#[path = "claims/paged_weights_change_nothing.rs"]
mod paged_weights_change_nothing;
#[path = "claims/preferences_match_trl.rs"]
mod preferences_match_trl;
#[path = "claims/trained_tokens_match_peft.rs"]
mod trained_tokens_match_peft;
#[cfg(feature = "flex")]
#[path = "claims/training_is_deterministic.rs"]
mod training_is_deterministic;
