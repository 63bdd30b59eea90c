//! A Kubernetes cluster in one process: `cargo run --release --example mini-cluster`.
//!
//! It shows how an application assembles Wharf's parts. `options.rs` decides, `parts.rs` builds, this file tells the story.

mod demo;
mod image;
mod options;
mod parts;
mod smoke;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use wharf::Cluster;

use options::{Choice, Options};
use parts::Parts;

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    // In a container this executable is the demo program; as a pod's shim it holds containers. Both before any thread exists.
    demo::run_if_called();
    wharf::runtime_youki::shim_main();

    let begin = Instant::now();
    let options = Options::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error),
    };
    match runtime.block_on(run(&options, begin)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&*error),
    }
}

fn complain(error: &dyn Error) -> ExitCode {
    eprintln!("mini-cluster: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprintln!("  because: {cause}");
        source = cause.source();
    }
    ExitCode::FAILURE
}

async fn run(options: &Options, begin: Instant) -> Outcome {
    // From here on Ctrl-C means: end in good order.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let asked_to_end = async move {
        tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
    };
    let root = nix::unistd::geteuid().is_root();
    let choice = options::choose(options, root, parts::has_iptables())?;
    std::fs::create_dir_all(&choice.data)
        .map_err(|e| format!("cannot make the data folder {}: {e}; choose another with --data", choice.data.display()))?;

    let mut builder = Cluster::builder().data(&choice.data).listen(options.listen);
    if let Some(name) = &options.node_name {
        builder = builder.identity(name);
    }
    if let Some(path) = &options.encryption_key_file {
        builder = builder.encryption_key_file(path);
    }
    if options.secrets_in_plain_text {
        builder = builder.secrets_in_plain_text();
    }
    let story = parts::story(options, &choice).await?;
    if let Some(store) = parts::store(options, &choice, story.as_ref()).await? {
        builder = builder.store(store);
    }
    let cluster = builder.start().await?;
    let kubeconfig = options.kubeconfig.clone().unwrap_or_else(|| choice.data.join("kubeconfig"));
    let mut parts = Parts::default();
    let told = async {
        write_private(&kubeconfig, &cluster.kubeconfig()?)?;
        let served = begin.elapsed();
        parts.add(&cluster, options, &choice).await?;
        if !options.smoke {
            greet(&cluster, &choice, &kubeconfig);
            println!("ready in {} ms (the API server in {} ms)", begin.elapsed().as_millis(), served.as_millis());
            advise(&kubeconfig, options);
            return Ok(Told::Waits);
        }
        for reason in &choice.reasons {
            println!("{reason}");
        }
        let stage = smoke::Stage { cluster: cluster.clone(), real: parts.real(), drain: options.smoke_drain };
        smoke::play(&stage).await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(Told::Ended)
    };
    let mut asked_to_end = Box::pin(asked_to_end);
    let outcome = tokio::select! {
        outcome = told => outcome,
        () = &mut asked_to_end => Ok(Told::Interrupted),
    };
    if matches!(outcome, Ok(Told::Waits)) {
        asked_to_end.await;
        println!("{}", options::farewell(options));
    }
    cluster.shutdown().await;
    if !options.keep_running {
        parts.remove(&choice).await?;
    }
    if let Some(story) = story {
        story.end().await?;
    }
    match outcome {
        Ok(Told::Interrupted) if options.smoke => Err("interrupted".into()),
        Ok(_) => {
            if options.smoke {
                println!("smoke: ok");
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

enum Told {
    Waits,
    Ended,
    Interrupted,
}

fn write_private(path: &Path, text: &str) -> Outcome {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let partial: PathBuf = path.with_extension("partial");
    // It holds keys: nobody else may read it, not even for a moment.
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)
        .map_err(|e| format!("cannot write {}: {e}; choose another place with --kubeconfig", partial.display()))?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(&partial, path)?;
    Ok(())
}

fn greet(cluster: &Cluster, choice: &Choice, kubeconfig: &Path) {
    println!("wharf mini-cluster, Kubernetes 1.36");
    for reason in &choice.reasons {
        println!("  {reason}");
    }
    println!("  nodes: {}", cluster.nodes().join(", "));
    println!("  data: {}", choice.data.display());
    if let Some(address) = cluster.address() {
        println!("  address: https://{address}");
    }
    println!("  kubeconfig: {} (contexts wharf, by certificate, and wharf-token)", kubeconfig.display());
}

fn advise(kubeconfig: &Path, options: &Options) {
    println!("\nTry, in another terminal:");
    println!("  export KUBECONFIG={}", kubeconfig.display());
    println!("  kubectl get nodes -o wide");
    println!("  kubectl create deployment demo --image={} --replicas=3", image::name("v1"));
    println!("{}", if options.keep_running { "Ctrl-C ends this process; containers go on." } else { "Ctrl-C ends everything." });
}
