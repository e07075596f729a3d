//! The scenarios of the models, as tests.

use wws_models::{admission_model, idle_model, ticker_model};

#[test]
fn waiting_calls_get_free_slots() {
    admission_model::waiting_calls_get_free_slots();
}

#[test]
fn calls_that_give_up_leave_nothing() {
    admission_model::calls_that_give_up_leave_nothing();
}

#[test]
fn waiting_slots_return_to_the_bound() {
    idle_model::waiting_slots_return_to_the_bound();
}

#[test]
fn clock_ticks_for_every_guest() {
    ticker_model::clock_ticks_for_every_guest();
}
