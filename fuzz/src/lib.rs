//! The properties of `tests/properties/`, for libFuzzer.

#[path = "../../tests/properties/mod.rs"]
pub mod properties;
