//! Any ObjectStore served as etcd v3 over gRPC; building it needs protoc.
