//! An etcd of its own.
