//! Wharf's core: the organs of Kubernetes as traits, and the driver that runs them.

pub mod api;
pub mod cache;
pub mod clock;
pub mod controller;
pub mod events;
pub mod informer;
pub mod kinds;
pub mod metrics;
pub mod node;
pub mod object;
pub mod proxy;
pub mod proxy_driver;
pub mod quantity;
pub mod runtime;
pub mod scheduler;
pub mod selector;
pub mod store;
pub mod testing;
