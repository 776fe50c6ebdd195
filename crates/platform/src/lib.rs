//! The keys of a Key Access Server, read from a running OpenTDF platform.
#![forbid(unsafe_code)]
