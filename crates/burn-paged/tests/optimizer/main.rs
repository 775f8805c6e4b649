//! One suite on every device that the features compile in.

mod budgets;
#[cfg(feature = "flex")]
mod page_file;
mod records;
#[cfg(feature = "cuda")]
mod streams;
mod support;
mod torch;

qlora_test_support::on_every_device! {
    in crate::support::run:
    torch::parameters_and_moments_follow_torch,
    budgets::every_budget_gives_the_same_bits,
    budgets::every_budget_gives_the_same_bits_in_8_bits,
    budgets::bytes_moved_are_twice_what_is_not_resident,
    budgets::the_state_takes_what_was_said_before,
    budgets::the_budget_may_change_on_the_way,
    budgets::cloned_states_go_their_own_ways,
    budgets::settings_that_cannot_work_are_refused,
    records::a_record_goes_on_at_any_budget_with_the_same_bits,
    records::burn_optims_own_adamw_loads_the_record_and_the_other_way_round,
    records::moments_go_straight_into_pages,
    records::state_of_another_shape_is_refused,
}
