//! One suite, run on every device that the features compile in: the same bits as bitsandbytes for the
//! format, its numbers for the products, and gradients that agree with differences.

mod format;
mod fused_layers;
mod gguf;
mod gradient;
mod lora;
mod recorded;
mod shapes;
mod support;
mod words;

#[cfg(not(feature = "autodiff"))]
compile_error!("the tests need the feature autodiff");

qlora_test_support::on_every_device! {
    in crate::support::run:
    format::codes_and_scales_are_those_of_bitsandbytes,
    format::every_config_quantizes_as_on_the_host,
    format::extreme_scales_quantize_as_on_the_host,
    format::recorded_words_decode_to_the_recorded_bits,
    format::values_that_are_not_finite_are_refused,
    format::what_is_awaited_is_what_is_waited_for,
    format::values_whose_scales_are_beyond_f32_are_refused,
    gguf::recorded_blocks_decode_to_the_recorded_bits,
    gguf::every_format_multiplies_and_has_a_gradient,
    recorded::products_match_the_recording,
    recorded::the_gradient_matches_the_recording,
    gradient::agrees_with_central_differences,
    gradient::flows_through_both_directions_and_stops_at_the_words,
    lora::agrees_with_the_layer_written_out,
    lora::agrees_on_the_blocks_of_a_file,
    lora::layers_of_one_input_are_what_each_is_alone,
    lora::half_inputs_agree_within_their_rounding,
    lora::an_input_that_nothing_feeds_costs_no_gradient,
    lora::factors_that_do_not_fit_are_refused,
    fused_layers::agree_with_the_operations_one_by_one,
    fused_layers::have_the_gradients_of_the_operations,
    fused_layers::agree_in_half_precision_within_its_rounding,
    fused_layers::what_does_not_fit_around_layers_is_refused,
    shapes::any_shape_multiplies_like_the_decoded_matrix,
    shapes::every_config_multiplies_like_the_decoded_matrix,
    shapes::leading_dimensions_are_a_batch,
    shapes::an_empty_batch_gives_an_empty_result,
    shapes::an_empty_sum_is_zero,
    shapes::views_multiply_like_their_copies,
    shapes::half_inputs_give_half_results,
    shapes::wrong_inputs_are_refused_by_name,
    words::survive_devices_parameters_and_records,
    words::of_another_layout_are_refused,
}
