//! A containerd of its own.
