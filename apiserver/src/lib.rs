//! Placeholder.
pub mod request;
