//! The few system calls without a safe wrapper.
#![allow(unsafe_code)] // Raw descriptors that come from another process, and two ioctls and signals; each is argued below.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Takes ownership of a descriptor that was received over a socket or inherited on purpose.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the callers got `fd` from SCM_RIGHTS or from argv as a descriptor made for this process, and own it alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Writes to a descriptor that is known only by number.
pub(crate) fn write_raw(fd: RawFd, bytes: &[u8]) {
    if fd < 0 {
        return;
    }
    // SAFETY: the descriptor was inherited for this purpose and stays open until exec.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    // Nobody is left to tell if the reader is gone.
    let _ = nix::unistd::write(borrowed, bytes);
}

/// Sets the size of a terminal.
pub(crate) fn set_window_size(fd: &OwnedFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a winsize, which lives across the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives SIGPIPE its default action back, which Rust's start-up code takes away and exec would pass on.
pub(crate) fn default_sigpipe() {
    // SAFETY: sets a default action, installs no handler.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Brings the loopback interface of the calling thread's network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: ifreq is plain data, for which zero is a value; the ioctls read and write it only.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &mut request) < 0 {
            return Err(io::Error::last_os_error());
        }
        request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Replaces the whole environment of this process.
pub(crate) fn replace_environment(environment: std::collections::HashMap<String, String>) {
    let old: Vec<_> = std::env::vars_os().map(|(key, _)| key).collect();
    // SAFETY: called in the forked child of a single-threaded helper; no other thread can read the environment.
    unsafe {
        for key in old {
            std::env::remove_var(key);
        }
        for (key, value) in environment {
            std::env::set_var(key, value);
        }
    }
}

/// Registers a descriptor with the executor.
pub(crate) fn register(fd: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd keeps its one descriptor open for as long as it lives, and AsyncFd owns it.
    unsafe { tokio::io::unix::AsyncFd::register(fd) }.map_err(io::Error::from)
}

/// Closes every descriptor beyond the standard three, whatever the embedder left open across exec.
pub(crate) fn close_inherited() {
    // SAFETY: called first thing in a process of one thread that has opened nothing yet.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
    }
}
