//! The dialects, tested where no one file is the place.

pub mod meters;
mod captures;
mod long;
