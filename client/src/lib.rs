#![doc = include_str!("../README.md")]

mod http_call;
mod path;
mod remote;
mod wire;

pub use http_call::{MAX_ANSWER, MAX_ATTEMPTS, MAX_OBJECT, MAX_RETRY_AFTER, REQUEST_TIMEOUT};
pub use remote::{MAX_PAGES, PAGE, RemoteApi, SMALL_PAGE, WATCH_IDLE};
