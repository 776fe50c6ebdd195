//! Black-box tests of the `kasbah` binary live in `tests/`.
