//! The built-in types of Kubernetes as one table.
