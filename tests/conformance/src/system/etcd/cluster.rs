//! Several members.

use std::sync::Arc;

use super::{ATTEMPTS, Etcd, EtcdError, EtcdNetwork, Peers, Place, folder, free_port, or_omit, program};

/// Faster than by default, so that a test need not wait for seconds until another member leads.
const ELECTION: [&str; 2] = ["--heartbeat-interval=50", "--election-timeout=500"];
/// In a network of their own all use the same ports.
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// A cluster of etcd. Ends when dropped, and its data with it.
#[derive(Debug)]
pub struct EtcdCluster {
    members: Vec<Etcd>,
}

impl EtcdCluster {
    /// Starts members on free ports of loopback and waits until all answer.
    ///
    /// # Errors
    /// [`EtcdError`]; [`EtcdError::Missing`] if there is no such program here.
    pub async fn start(count: usize) -> Result<Self, EtcdError> {
        let mut attempt = 1;
        loop {
            let places = (0..count).map(|_| Ok((Place::loopback(free_port()?), format!("http://127.0.0.1:{}", free_port()?))));
            match Self::start_at(places.collect::<Result<_, EtcdError>>()?).await {
                Err(EtcdError::Ended { log, .. }) if log.contains("address already in use") && attempt < ATTEMPTS => attempt += 1,
                started => return started,
            }
        }
    }

    /// Starts a member in each of a network's namespaces. Call it inside [`EtcdNetwork::run`].
    ///
    /// # Errors
    /// As [`EtcdCluster::start`].
    pub async fn start_in(network: &EtcdNetwork) -> Result<Self, EtcdError> {
        let place = |member: usize| {
            let namespace = Some(Arc::clone(network.namespace(member)));
            let host = EtcdNetwork::client_address(member);
            let place = Place { scheme: "http", host, port: CLIENT_PORT, plain: CLIENT_PORT, namespace };
            (place, format!("http://{}:{PEER_PORT}", EtcdNetwork::peer_address(member)))
        };
        Self::start_at((0..network.len()).map(place).collect()).await
    }

    async fn start_at(places: Vec<(Place, String)>) -> Result<Self, EtcdError> {
        let (program, mut arguments) = program()?;
        arguments.extend(ELECTION.map(str::to_owned));
        let names: Vec<_> = places.iter().enumerate().map(|(member, (_, url))| (format!("m{member}"), url)).collect();
        let cluster = names.iter().map(|(name, url)| format!("{name}={url}")).collect::<Vec<_>>().join(",");
        let mut members = Vec::with_capacity(places.len());
        for (member, (place, url)) in places.iter().enumerate() {
            let peers = Peers { name: format!("m{member}"), listen: url.clone(), advertise: url.clone(), cluster: cluster.clone() };
            members.push(Etcd::new(folder(true)?, program.clone(), arguments.clone(), place.clone(), peers));
        }
        let cluster = Self { members };
        cluster.start_again().await?;
        Ok(cluster)
    }

    /// Starts one for a test, or [omits](wharf_core::testing::omit) the test when the program is missing.
    ///
    /// # Panics
    /// When it is there and does not start, and as `omit`.
    pub async fn start_or_omit(test: &str, count: usize) -> Option<Self> {
        or_omit(test, Self::start(count).await)
    }

    /// Its members.
    pub fn members(&self) -> &[Etcd] {
        &self.members
    }

    /// The client URLs of its members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Etcd::endpoint).collect()
    }

    /// Ends all members as a crash would. Their data stays.
    pub fn kill(&self) {
        self.members.iter().for_each(Etcd::kill);
    }

    /// Starts all members on the data that they had, ending them first, and waits until all answer.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn start_again(&self) -> Result<(), EtcdError> {
        self.kill();
        self.members.iter().try_for_each(Etcd::spawn)?;
        for member in &self.members {
            member.ready().await?;
        }
        Ok(())
    }

    /// Who says that it leads, if a member does. All must run.
    pub async fn leader(&self) -> Option<usize> {
        for (index, member) in self.members.iter().enumerate() {
            if member.is_leader().await {
                return Some(index);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn three_members_have_one_leader() {
        let Some(cluster) = EtcdCluster::start_or_omit("system.etcd.cluster", 3).await else { return };
        let leader = cluster.leader().await.unwrap();
        let member = &cluster.members()[leader];
        member.pause().unwrap();
        member.resume().unwrap();
        member.kill();
        member.start_again().await.unwrap();
    }
}
