//! Stock components for tests, each started privately: its own folder, its own socket or loopback port, ended when dropped.

pub mod containerd;
pub mod etcd;
pub mod oci_image;
