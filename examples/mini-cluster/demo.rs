//! The program inside `wharf.local/demo`: a small HTTP server and a few shell-like verbs.
//!
//! It is the mini-cluster's own executable, told apart by the name it is called by, as busybox does.

use std::convert::Infallible;
use std::io::{BufRead, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// The names under which the executable lies in the image.
pub const VERBS: &[&str] = &["demo", "cat", "echo", "env", "false", "hostname", "ls", "sh", "sleep", "true", "wget"];

const HELP: &str = "\
demo, the program inside wharf.local/demo

  demo serve [--port 8080]   answer HTTP: / /healthz /hostname /version /config /env/NAME
  demo VERB [ARG...]         cat echo env false hostname ls sh sleep true wget
";

/// Runs the demo if the process was called by one of its names; otherwise returns.
pub fn run_if_called() {
    let mut args: Vec<String> = std::env::args().collect();
    let called = args.first().and_then(|a| a.rsplit('/').next()).unwrap_or_default().to_owned();
    // On a person's machine the executable has another name, so these names are only met in the image.
    if !VERBS.contains(&called.as_str()) || std::env::var_os("WHARF_DEMO").is_none() {
        return;
    }
    args.remove(0);
    if called != "demo" {
        args.insert(0, called);
    }
    std::process::exit(verb(&args, &mut std::io::stdout()));
}

fn verb(args: &[String], out: &mut dyn Write) -> i32 {
    let (name, rest) = match args.split_first() {
        Some((name, rest)) => (name.as_str(), rest),
        None => ("help", &[][..]),
    };
    let result = match name {
        "serve" => return serve(rest),
        "sh" => return shell(rest, out),
        "true" => Ok(()),
        "false" => return 1,
        "exit" => return rest.first().and_then(|c| c.parse().ok()).unwrap_or(0),
        "echo" => writeln!(out, "{}", rest.join(" ")),
        "env" => std::env::vars().try_for_each(|(k, v)| writeln!(out, "{k}={v}")),
        "hostname" => std::fs::read_to_string("/proc/sys/kernel/hostname").and_then(|name| out.write_all(name.as_bytes())),
        "cat" if rest.is_empty() => std::io::copy(&mut std::io::stdin(), out).map(|_| ()),
        "cat" => rest.iter().try_for_each(|path| std::fs::read(path).and_then(|text| out.write_all(&text)).map_err(|e| named(path, &e))),
        "ls" => list(rest.iter().find(|a| !a.starts_with('-')).map_or(".", String::as_str), out),
        "sleep" => sleep(rest.first().map_or("", String::as_str)),
        "wget" => wget(rest.last().map_or("", String::as_str), out),
        "help" | "--help" | "-h" => out.write_all(HELP.as_bytes()),
        other => {
            eprintln!("demo: {other}: not found; the verbs are: {}", VERBS.join(" "));
            return 127;
        }
    };
    match result.and_then(|()| out.flush()) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{name}: {error}");
            1
        }
    }
}

fn named(path: &str, error: &std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), format!("{path}: {error}"))
}

fn list(path: &str, out: &mut dyn Write) -> std::io::Result<()> {
    let mut names =
        std::fs::read_dir(path).map_err(|e| named(path, &e))?.map(|e| e.map(|e| e.file_name())).collect::<Result<Vec<_>, _>>()?;
    names.sort();
    names.iter().try_for_each(|name| writeln!(out, "{}", name.to_string_lossy()))
}

fn sleep(text: &str) -> std::io::Result<()> {
    let seconds = match text {
        "infinity" => u64::MAX,
        _ => text.parse().map_err(|_| std::io::Error::other(format!("invalid time {text:?}: a number of seconds, or infinity")))?,
    };
    std::thread::sleep(Duration::from_secs(seconds));
    Ok(())
}

fn wget(url: &str, out: &mut dyn Write) -> std::io::Result<()> {
    let bad = || std::io::Error::other(format!("cannot fetch {url:?}: the form is http://HOST:PORT/PATH"));
    let rest = url.strip_prefix("http://").ok_or_else(bad)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(16 << 20).read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(bad)?;
    out.write_all(&answer[end + 4..])?;
    if answer.starts_with(b"HTTP/1.1 2") { Ok(()) } else { Err(std::io::Error::other("the server answered with an error")) }
}

/// Enough of a shell for a probe or a look around: words, `;`, `&&`, and lines from standard input.
fn shell(args: &[String], out: &mut dyn Write) -> i32 {
    if args.first().map(String::as_str) == Some("-c") {
        return script(args.get(1).map_or("", String::as_str), out);
    }
    let mut code = 0;
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        if line.trim() == "exit" {
            break;
        }
        code = script(&line, out);
    }
    code
}

fn script(text: &str, out: &mut dyn Write) -> i32 {
    let mut code = 0;
    for sequence in text.split(['\n', ';']).filter(|s| !s.trim().is_empty()) {
        for command in sequence.split("&&") {
            let words: Vec<String> = command.split_whitespace().map(|w| w.trim_matches(['"', '\'']).to_owned()).collect();
            if words.first().map(String::as_str) == Some("exit") {
                return words.get(1).and_then(|c| c.parse().ok()).unwrap_or(code);
            }
            code = verb(&words, out);
            if code != 0 {
                break;
            }
        }
    }
    code
}

fn serve(args: &[String]) -> i32 {
    let port = match args {
        [] => 8080,
        [flag, port] if flag == "--port" => match port.parse() {
            Ok(port) => port,
            Err(_) => {
                eprintln!("demo serve: invalid port {port:?}: a number from 1 to 65535");
                return 2;
            }
        },
        _ => {
            eprint!("{HELP}");
            return 2;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("demo serve: {error}");
            return 1;
        }
    };
    match runtime.block_on(listen(port)) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("demo serve: {error}");
            1
        }
    }
}

async fn listen(port: u16) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await?;
    println!("demo {} listens on port {port}", version());
    let accept = async {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            tokio::spawn(async move {
                let service = service_fn(|request| async move { Ok::<_, Infallible>(answer(&request)) });
                let _ = hyper::server::conn::http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    };
    tokio::select! {
        () = accept => {}
        _ = terminate.recv() => {
            println!("demo: terminating");
        }
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn version() -> String {
    std::env::var("DEMO_VERSION").unwrap_or_else(|_| "unknown".into())
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default()
}

fn answer(request: &Request<hyper::body::Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    println!("{} {path}", request.method());
    let found = match path {
        _ if request.method() != Method::GET => None,
        "/" => Some(format!("hello from {} ({})\n", hostname(), version())),
        "/healthz" => Some("ok\n".into()),
        "/hostname" => Some(hostname() + "\n"),
        "/version" => Some(version() + "\n"),
        "/config" => std::fs::read_to_string("/etc/demo/message").ok(),
        _ => path.strip_prefix("/env/").and_then(|name| std::env::var(name).ok()).map(|value| value + "\n"),
    };
    let (status, text) = found.map_or((StatusCode::NOT_FOUND, "not found\n".into()), |text| (StatusCode::OK, text));
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}
