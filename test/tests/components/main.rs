//! The components of `test/guests/components` and `images/components`, called by a real server.

mod examples;
mod failures;
mod features;
mod instances;
mod served;
