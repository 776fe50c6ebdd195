//! Making keys.
