//! The kernels against recordings of bitsandbytes and against the host implementation, on every runtime that the features compile in.

mod adamw;
mod attention;
mod dense_rows;
mod fused_layers;
mod gguf;
mod low_rank;
mod products;
mod recorded;
mod refusals;
mod rows;
mod support;
mod words;

qlora_test_support::on_every_runtime! {
    in crate::support::run:
    recorded::quantized_words_match_bitsandbytes,
    recorded::products_match_the_recording,
    words::words_have_the_bits_of_the_host,
    words::decoded_values_have_the_bits_of_the_host,
    products::every_kernel_multiplies_every_shape,
    products::every_candidate_is_forced,
    products::half_precision_is_multiplied_in_single,
    products::matrix_instructions_multiply_every_shape,
    products::every_format_is_multiplied,
    products::rows_may_lie_apart,
    products::an_empty_product_is_empty_or_zero,
    gguf::recorded_blocks_decode_bit_for_bit,
    gguf::every_kernel_multiplies_every_format,
    gguf::half_precision_multiplies_every_format,
    low_rank::a_layer_matches_its_sums_in_f64,
    low_rank::a_layer_of_a_files_blocks_matches_its_sums,
    low_rank::layers_of_one_input_are_each_what_they_are_alone,
    low_rank::every_projection_is_forced,
    low_rank::half_precision_is_summed_in_single,
    low_rank::rows_of_a_layer_may_lie_apart,
    low_rank::factors_may_be_transposed,
    low_rank::the_factors_gradients_alone_are_the_same,
    low_rank::an_empty_layer_is_empty_or_zero,
    low_rank::factors_that_do_not_fit_are_refused,
    dense_rows::a_few_rows_match_their_sums,
    dense_rows::more_cubes_than_a_dimension_has_are_spread,
    dense_rows::half_rows_are_summed_in_single,
    dense_rows::what_dense_rows_do_not_serve_is_known,
    fused_layers::layers_and_what_is_around_them_match_the_formula,
    fused_layers::few_rows_are_fused_but_on_a_cpu,
    fused_layers::rows_that_begin_within_a_word_are_fused,
    fused_layers::layers_of_a_files_blocks_are_fused,
    fused_layers::what_is_around_layers_is_fused_in_half_precision,
    fused_layers::what_no_launch_has_is_left_to_the_caller,
    adamw::f32_moments_match_the_reference,
    adamw::coded_moments_match_the_reference,
    attention::windows_match_the_formula,
    attention::soft_caps_match_the_formula,
    attention::keys_behind_the_window_are_not_looked_at,
    attention::queries_past_the_window_are_not_looked_at,
    attention::a_soft_cap_passes_nan,
    attention::a_token_without_others_is_its_value,
    rows::norms_by_one_more_match_the_formula,
    rows::gelu_gates_match_the_formula,
    rows::gelu_gates_saturate,
    rows::parts_of_heads_turn,
    rows::more_angles_than_a_head_has_are_refused,
    refusals::types_that_are_no_floats,
    refusals::what_32_bits_cannot_index,
    refusals::kernels_that_the_device_cannot_run,
    refusals::operands_that_do_not_fit,
    refusals::formats_that_files_have_are_not_quantized_to,
}
