//! The measurements, each over connections of its own.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{Ask, Fleet, Part, Protocol};
use crate::kubeconfig::Target;
use crate::{Options, Outcome, objects};

/// Changes that watchers are told of.
const CHANGES: usize = 40;
/// Creates that are timed one by one.
const TIMED: usize = 300;
/// Watches that a watch's memory is measured with.
const COUNTED: usize = 2_000;
/// What the memory of many objects is measured with.
pub const NODES: usize = 1_000;
pub const PODS: usize = 5_000;

/// One run over one server.
pub struct Bench<'a> {
    pub target: &'a Target,
    pub options: &'a Options,
    /// A namespace that nobody else uses.
    pub namespace: String,
    pub filling: String,
}

/// Resident memory of a process, in bytes.
pub fn resident(pid: u32) -> Outcome<f64> {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| format!("cannot read the memory of process {pid}: {e}"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? * 1024.0)
}

fn percentile(sorted: &[f64], part: f64) -> f64 {
    sorted.get(((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

impl<'a> Bench<'a> {
    fn fleet(&self) -> Outcome<Fleet<'a>> {
        Fleet::connect(self.target, self.options.protocol, self.options.connections(), false)
    }

    fn collection(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps", self.namespace)
    }

    /// Makes the namespace, and the account that pods in it run under.
    pub fn begin(&self) -> Outcome<()> {
        let mut fleet = Fleet::connect(self.target, self.options.protocol, 1, false)?;
        let body = format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{}"}}}}"#, self.namespace);
        fleet.one(&Ask::post("/api/v1/namespaces", &body))?;
        let body = r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#;
        // Where controllers run, one of them is as fast.
        let path = format!("/api/v1/namespaces/{}/serviceaccounts", self.namespace);
        match fleet.one(&Ask::post(&path, body)) {
            Err(error) if !error.to_string().contains("AlreadyExists") => Err(error),
            _ => Ok(()),
        }
    }

    /// Asks the server to remove everything again.
    pub fn end(&self, nodes: bool) -> Outcome<()> {
        let mut fleet = self.fleet()?;
        fleet.one(&Ask { method: "DELETE", ..Ask::get(&format!("/api/v1/namespaces/{}", self.namespace)) })?;
        if nodes {
            let mut left = 0..NODES;
            fleet.run(self.options.in_flight, &mut |request| {
                left.next().map(|i| request.set("DELETE", format_args!("/api/v1/nodes/bench-node-{i}"), format_args!(""))).is_some()
            })?;
        }
        Ok(())
    }

    fn until(&self) -> Instant {
        Instant::now() + Duration::from_secs_f64(self.options.seconds)
    }

    /// Creates a second; how many there are then.
    pub fn creates(&self) -> Outcome<(f64, usize)> {
        let (mut fleet, path, mut made, until) = (self.fleet()?, self.collection(), 0, self.until());
        let done = fleet.run(self.options.in_flight, &mut |request| {
            request.set(
                "POST",
                format_args!("{path}"),
                format_args!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"map-{made}","labels":{{"app":"bench"}}}},"data":{{"config":"{}","change":"0"}}}}"#, self.filling),
            );
            made += 1;
            Instant::now() < until
        })?;
        Ok((done.per_second(), done.requests))
    }

    /// Gets a second, over all that there are.
    pub fn gets(&self, objects: usize) -> Outcome<f64> {
        let (mut fleet, path, mut next, until) = (self.fleet()?, self.collection(), 0, self.until());
        let done = fleet.run(self.options.in_flight, &mut |request| {
            next = (next + 1) % objects;
            request.set("GET", format_args!("{path}/map-{next}"), format_args!(""));
            Instant::now() < until
        })?;
        Ok(done.per_second())
    }

    /// Merge patches a second, over all that there are.
    pub fn patches(&self, objects: usize) -> Outcome<f64> {
        let (mut fleet, path, mut count, until) = (self.fleet()?, self.collection(), 0, self.until());
        let done = fleet.run(self.options.in_flight, &mut |request| {
            count += 1;
            request.set("PATCH", format_args!("{path}/map-{}", count % objects), format_args!(r#"{{"data":{{"change":"{count}"}}}}"#));
            Instant::now() < until
        })?;
        Ok(done.per_second())
    }

    /// Megabytes of whole lists a second.
    pub fn lists(&self) -> Outcome<f64> {
        let mut fleet = self.fleet()?;
        let (path, mut made) = (format!("/api/v1/namespaces/{}/secrets", self.namespace), 0);
        // Another kind, so that the list is as long as asked for whatever was created before.
        fleet.run(self.options.in_flight, &mut |request| {
            request.set(
                "POST",
                format_args!("{path}"),
                format_args!(
                    r#"{{"apiVersion":"v1","kind":"Secret","metadata":{{"name":"secret-{made}"}},"stringData":{{"config":"{}"}}}}"#,
                    &self.filling[..600]
                ),
            );
            made += 1;
            made <= self.options.list
        })?;
        let until = self.until();
        let done = fleet.run(self.options.in_flight, &mut |request| {
            request.set("GET", format_args!("{path}"), format_args!(""));
            Instant::now() < until
        })?;
        Ok(done.megabytes_per_second())
    }

    /// Milliseconds of a create when nothing else goes on: the median.
    pub fn one_at_a_time(&self) -> Outcome<f64> {
        let mut fleet = Fleet::connect(self.target, self.options.protocol, 1, false)?;
        let path = self.collection();
        let mut taken = Vec::with_capacity(TIMED);
        for index in 0..TIMED {
            let body = format!(
                r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"single-{index}"}},"data":{{"config":"{}"}}}}"#,
                self.filling
            );
            let begin = Instant::now();
            fleet.one(&Ask::post(&path, &body))?;
            taken.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        taken.sort_by(f64::total_cmp);
        Ok(percentile(&taken, 0.5))
    }

    /// Opens watches of the namespace, from now on.
    fn watches(&self, count: usize) -> Outcome<Fleet<'a>> {
        let mut fleet = Fleet::connect(self.target, self.options.protocol, count.div_ceil(self.options.protocol.streams()), true)?;
        let mut other = Fleet::connect(self.target, Protocol::Http1, 1, false)?;
        let list: Value = serde_json::from_slice(&other.one(&Ask::get(&format!("{}?limit=1", self.collection())))?)?;
        let revision = list["metadata"]["resourceVersion"].as_str().ok_or("a list without a resourceVersion")?;
        fleet.begin_watches(&format!("{}?watch=true&resourceVersion={revision}&timeoutSeconds=3000", self.collection()), count)?;
        Ok(fleet)
    }

    /// Milliseconds from sending a change until a watcher has it: the median, and the 99th of a hundred.
    pub fn watchers(&self) -> Outcome<(f64, f64)> {
        let mut writer = Fleet::connect(self.target, self.options.protocol, 1, false)?;
        let path = format!("{}/watched", self.collection());
        let body =
            format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"watched"}},"data":{{"config":"{}"}}}}"#, self.filling);
        writer.one(&Ask::post(&self.collection(), &body))?;
        let watches = self.options.watchers;
        let mut fleet = self.watches(watches)?;
        let mut taken = Vec::with_capacity(CHANGES * watches);
        for change in 0..CHANGES {
            let body = format!(r#"{{"data":{{"change":"{change}"}}}}"#);
            let begin = Instant::now();
            writer.begin(&Ask::patch(&path, &body))?;
            let mut told = 0;
            while told < watches {
                fleet.hear_watches(&mut |part| {
                    // An event is a line.
                    if matches!(part, Part::Data(data) if data.last() == Some(&b'\n')) {
                        told += 1;
                        taken.push(begin.elapsed().as_secs_f64() * 1e3);
                    }
                })?;
            }
            writer.answer()?;
        }
        taken.sort_by(f64::total_cmp);
        Ok((percentile(&taken, 0.5), percentile(&taken, 0.99)))
    }

    /// KiB of the server's memory that a watch takes, its part of a connection included.
    pub fn watch_memory(&self, pid: u32) -> Outcome<f64> {
        // What the first ones take is taken once.
        let _warm = self.watches(self.options.protocol.streams())?;
        let before = resident(pid)?;
        let _held = self.watches(COUNTED)?;
        Ok((resident(pid)? - before) / 1024.0 / COUNTED as f64)
    }

    /// MB of the server's memory with many pods and nodes, reported on as kubelets do.
    pub fn many_objects(&self, pid: u32) -> Outcome<f64> {
        let mut fleet = self.fleet()?;
        let pods = format!("/api/v1/namespaces/{}/pods", self.namespace);
        let mut run = |path: &dyn Fn(usize) -> String, method: &'static str, count: usize, body: &dyn Fn(usize) -> String| {
            let mut left = 0..count;
            fleet.run(self.options.in_flight, &mut |request| {
                left.next().map(|i| request.set(method, format_args!("{}", path(i)), format_args!("{}", body(i)))).is_some()
            })
        };
        run(&|_| "/api/v1/nodes".into(), "POST", NODES, &|i| objects::node(i).0)?;
        run(&|i| format!("/api/v1/nodes/bench-node-{i}/status"), "PATCH", NODES, &|i| objects::node(i).1)?;
        run(&|_| pods.clone(), "POST", PODS, &|i| objects::pod(i, NODES).0)?;
        run(&|i| format!("{pods}/web-7d4b9c6f5-{i:05}/status"), "PATCH", PODS, &|i| objects::pod(i, NODES).1)?;
        Ok(resident(pid)? / 1e6)
    }
}
