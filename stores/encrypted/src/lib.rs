//! Encryption at rest: a decorator over any ObjectStore.
