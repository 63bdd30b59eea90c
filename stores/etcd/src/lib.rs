//! An ObjectStore over etcd v3; building it needs protoc.
