//! CEL as Kubernetes speaks it.
