//! The `meteor` binary.

fn main() {}
