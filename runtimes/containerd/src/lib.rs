//! A Runtime over any CRI v1 socket: containerd, CRI-O; building it needs protoc.
