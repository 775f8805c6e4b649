//! One suite: rows from files on the host, and training on every device that the features compile in.

mod answers;
mod bytes;
mod checkpoints;
mod evaluations;
mod files;
mod folders;
mod jinja;
#[cfg(feature = "flex")]
mod killed;
mod peers;
mod preferences;
mod ranks;
mod rows;
mod runs;
mod steps;
mod support;
mod tokens;

qlora_test_support::on_every_device! {
    in crate::support::run:
    steps::unequal_micro_batches_equal_one_batch,
    steps::the_norm_is_global_and_clipping_scales_everything_at_once,
    steps::a_rate_of_zero_moves_the_moments_only,
    steps::other_optimizers_take_their_own_steps,
    steps::noise_is_refused_where_a_model_has_none,
    steps::a_loss_that_is_no_number_stops_the_run_before_the_update,
    steps::layer_checkpointing_is_refused_where_a_model_has_none,
    steps::packed_rows_are_refused_where_a_model_cannot_keep_examples_apart,
    steps::evaluation_is_the_mean_over_all_tokens,
    steps::training_lowers_the_loss_and_the_same_seed_gives_the_same_bits,
    preferences::every_objective_learns_what_is_preferred,
    preferences::a_reference_goes_on_where_it_was_stopped,
    preferences::preferences_stopped_and_resumed_are_not_stopped,
    checkpoints::stopped_and_resumed_is_not_stopped,
    checkpoints::every_optimizer_goes_on_from_its_state,
    folders::a_folder_with_another_run_is_refused,
    folders::a_run_is_one_process_own,
    folders::what_a_killed_process_left_goes,
    folders::a_changed_setting_is_refused_by_name,
    checkpoints::a_longer_run_goes_on_as_if_it_had_been_meant,
    evaluations::a_step_is_saved_before_it_is_evaluated,
    evaluations::the_best_step_stays_and_a_run_that_gains_nothing_stops,
    evaluations::the_model_is_looked_at_and_the_steps_have_the_same_bits,
    checkpoints::what_was_learnt_is_saved_before_numbers_are_none,
    checkpoints::adapters_that_are_not_finite_are_not_saved,
    checkpoints::a_failed_save_leaves_the_last_checkpoint,
    checkpoints::broken_checkpoints_are_refused,
    steps::rows_longer_than_the_context_are_refused,
    ranks::ranks_together_do_what_one_process_does,
    ranks::preferences_are_learnt_together_as_by_one_process,
    ranks::a_run_goes_on_with_another_number_of_ranks,
    ranks::ranks_with_other_bits_get_the_adapters_of_the_first,
    ranks::a_rank_with_another_run_is_named,
}
