//! What a node of a cluster is made from.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use wharf_core::proxy::SharedProxy;
use wharf_core::runtime::SharedRuntime;

/// A node to run inside the cluster's process.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    pub(crate) name: String,
    pub(crate) runtime: SharedRuntime,
    pub(crate) root_dir: Option<PathBuf>,
    pub(crate) log_dir: Option<PathBuf>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) pod_cidrs: Vec<IpNet>,
    pub(crate) proxy: Option<SharedProxy>,
    pub(crate) hollow: bool,
    pub(crate) handlers: Vec<(String, SharedRuntime)>,
    pub(crate) labels: BTreeMap<String, String>,
}

impl NodeSpec {
    /// A node of real containers: volumes go to `root_dir`, logs to `log_dir`.
    pub fn new(name: impl Into<String>, runtime: SharedRuntime, root_dir: impl Into<PathBuf>, log_dir: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            runtime,
            root_dir: Some(root_dir.into()),
            log_dir: Some(log_dir.into()),
            addresses: Vec::new(),
            pod_cidrs: Vec::new(),
            proxy: None,
            hollow: false,
            handlers: Vec::new(),
            labels: BTreeMap::new(),
        }
    }

    /// A node that only pretends: nothing is written to disk.
    pub fn hollow(name: impl Into<String>, runtime: SharedRuntime) -> Self {
        Self {
            name: name.into(),
            runtime,
            root_dir: None,
            log_dir: None,
            addresses: Vec::new(),
            pod_cidrs: Vec::new(),
            proxy: None,
            hollow: true,
            handlers: Vec::new(),
            labels: BTreeMap::new(),
        }
    }

    /// A further runtime, for pods whose RuntimeClass has this handler. Pods without a class run on the one that the node was
    /// made with.
    pub fn runtime_handler(mut self, handler: impl Into<String>, runtime: SharedRuntime) -> Self {
        self.handlers.push((handler.into(), runtime));
        self
    }

    /// Labels of the node, over the well-known ones.
    pub fn labels<K: Into<String>, V: Into<String>>(mut self, labels: impl IntoIterator<Item = (K, V)>) -> Self {
        self.labels = labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        self
    }

    /// Its addresses, the primary first.
    pub fn addresses(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.addresses = addresses.into_iter().collect();
        self
    }

    /// Where its pods' addresses come from.
    pub fn pod_cidrs(mut self, ranges: impl IntoIterator<Item = IpNet>) -> Self {
        self.pod_cidrs = ranges.into_iter().collect();
        self
    }

    /// What makes Services reachable on it. What it installs stays until its `teardown`.
    pub fn proxy(mut self, proxy: SharedProxy) -> Self {
        self.proxy = Some(proxy);
        self
    }
}
