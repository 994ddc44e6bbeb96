//! Tests of the admin API through its router.

pub mod fixed_catalog;
pub mod test_api;

mod api;
mod wallet;
