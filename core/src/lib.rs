//! Wharf's core: the organs of Kubernetes as traits, and the driver that runs them.

pub mod clock;
pub mod runtime;
pub mod testing;
