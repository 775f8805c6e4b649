//! One suite, run on every device that the features compile in: what a layer computes, what trains and
//! what does not, and what goes through files unchanged.

mod any_linear;
mod files;
mod forward;
mod freezing;
#[cfg(feature = "flex")]
mod memory;
mod records;
mod support;
mod token_rows;
mod walk;

qlora_test_support::on_every_device! {
    in crate::support::run:
    forward::a_layer_computes_base_plus_scaled_branch_plus_bias,
    forward::a_layer_and_what_is_around_it_are_as_one_by_one,
    forward::rslora_scales_by_the_root_of_the_rank,
    forward::fresh_adapters_change_nothing_and_are_the_same_for_a_seed,
    forward::dropout_falls_on_the_branch_only_and_only_in_training,
    forward::gradients_of_the_factors_are_those_of_the_dense_layer,
    forward::an_empty_batch_gives_an_empty_result,
    forward::a_rank_beyond_all_memory_is_refused,
    forward::merging_gives_the_weight_the_layer_acts_as,
    freezing::nothing_but_the_branch_ever_trains,
    freezing::an_optimizer_step_moves_the_factors_alone,
    freezing::validation_and_training_keep_the_words,
    token_rows::they_take_their_places_and_no_others,
    token_rows::a_lookup_gives_the_gradient_of_its_rows,
    token_rows::losses_give_the_gradients_of_their_rows,
    token_rows::rows_that_are_not_trained_cost_nothing,
    records::a_record_restores_the_same_words,
    records::safetensors_keep_the_words,
    records::words_of_another_format_are_refused,
    records::a_record_from_before_formats_is_refused_as_incomplete,
    any_linear::what_burn_saved_of_its_own_layers_is_read,
    any_linear::a_layer_that_is_saved_transposed_is_read_so,
    any_linear::every_file_of_pytorch_gives_the_outputs_of_torch,
    any_linear::a_pytorch_file_without_the_parameters_is_refused,
    any_linear::a_checkpoint_of_pytorch_is_quantized_trained_and_merged_back,
    any_linear::a_record_is_of_one_kind,
    any_linear::a_frozen_dense_base_is_quantized_too,
    walk::layers_are_called_by_the_fields_that_lead_to_them,
    walk::what_cannot_be_quantized_is_told,
    files::an_adapter_comes_back_as_it_went,
    files::adapters_of_other_models_are_refused,
    files::what_cannot_be_computed_is_refused_by_name,
    files::the_names_of_other_writers_are_read,
    files::adapters_of_mlx_lm_are_read,
    files::damaged_factors_are_refused_by_name,
    files::adapters_that_diverged_are_not_saved,
    files::a_path_without_an_adapter_says_what_is_there,
    files::doubtful_keys_are_told,
    files::broken_files_are_refused,
    files::what_would_be_described_wrongly_is_not_saved,
    files::a_failed_save_leaves_nothing_behind,
}
