//! The `kasbah` command.

fn main() {}
