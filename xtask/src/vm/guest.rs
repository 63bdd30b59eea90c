//! What runs in the machine before, around and after the program.

use std::fmt::Write;
use std::path::Path;

use super::cpio::Archive;
use super::kernel::{Kernel, module};
use super::modules::{in_order, name};
use super::ports::{ERR, OUT, STATUS};
use crate::system::root;

/// By which name the machine mounts our root.
pub const ROOT_TAG: &str = "host";
/// What it takes to mount it, to lay memory over it and to speak to us.
const MODULES: [&str; 5] = ["virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console"];
/// Where the program's data may lie: overlayfs takes no upper directory that is itself on overlayfs.
const MEMORY: [(&str, &str); 3] = [("/run", "0755"), ("/tmp", "1777"), ("/var/lib/wharf", "0700")];

/// One word of a shell's line.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The initial file system, with the program's line in it.
pub fn initrd(kernel: &Kernel, env: &[(String, String)], folder: &Path, program: &[String]) -> Result<Vec<u8>, String> {
    let read = |path: &Path| std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()));
    let text = |file: &str| read(&kernel.modules.join(file)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let order = in_order(&text("modules.dep")?, &text("modules.builtin")?, &MODULES)?;
    let mut archive = Archive::default();
    for folder in ["bin", "modules", "proc", "sys", "dev", "lower", "over", "root"] {
        archive.directory(folder);
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().map(Path::new).find(|p| p.exists()).unwrap_or(Path::new("/bin/busybox"));
    archive.file("bin/busybox", &read(busybox)?);
    for path in &order {
        archive.file(&format!("modules/{}", name(path)), &module(kernel, path)?);
    }
    archive.file("init", init(&order).as_bytes());
    archive.file("guest", script(kernel, env, folder, program).as_bytes());
    Ok(archive.finish())
}

/// The first process: makes the root, and becomes `script` in it. A failure ends it, at which the kernel panics and the machine ends.
fn init(modules: &[String]) -> String {
    let mut text = String::from("#!/bin/busybox sh\nset -e\n/bin/busybox --install -s /bin\nexport PATH=/bin\n");
    text += "mount -t proc proc /proc\nmount -t sysfs sysfs /sys\nmount -t devtmpfs dev /dev\n";
    // There was none to open when it started.
    text += "exec </dev/null >/dev/console 2>&1\n";
    for path in modules {
        let _ = writeln!(text, "insmod /modules/{}", name(path));
    }
    // Nothing changes below while it runs, or it does not matter: so it may be cached.
    let _ = writeln!(text, "mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=512000,cache=loose {ROOT_TAG} /lower");
    text += "mount -t tmpfs tmpfs /over\nmkdir /over/upper /over/work\n";
    text += "mount -t overlay -o lowerdir=/lower,upperdir=/over/upper,workdir=/over/work overlay /root\n";
    text += "mkdir -p /root/.vm\ncp /guest /root/.vm/guest\nexec switch_root /root /bin/sh /.vm/guest\n";
    text
}

fn script(kernel: &Kernel, env: &[(String, String)], folder: &Path, program: &[String]) -> String {
    let mut text = String::from("export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8\n");
    text += "mount -t proc proc /proc\nmount -t sysfs sysfs /sys\nmount -t devtmpfs dev /dev\n";
    text += "exec </dev/null >/dev/console 2>&1\n";
    text += "mkdir -p /dev/pts /dev/shm\nmount -t devpts devpts /dev/pts\nmount -t tmpfs tmpfs /dev/shm\n";
    // As systemd mounts it, and as it leaves the mount tree.
    text += "mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate cgroup2 /sys/fs/cgroup\nmount --make-rshared /\n";
    // What was built may lie in a folder that memory is about to hide.
    let built = quote(&root().display().to_string());
    let _ = writeln!(text, "mkdir -p /.vm/root\nmount --bind {built} /.vm/root");
    for (path, mode) in MEMORY {
        let _ = writeln!(text, "mkdir -p {path}\nmount -t tmpfs -o mode={mode} tmpfs {path}");
    }
    let _ = writeln!(text, "mkdir -p {built}\nmount --bind /.vm/root {built}");
    let _ =
        writeln!(text, "mkdir -p /lib/modules\nln -sfn {} /lib/modules/{}", quote(&kernel.modules.display().to_string()), kernel.release);
    text += "busybox hostname wharf-vm\nbusybox ip link set lo up\n";
    // Without a default route nothing could be sent to an address that a packet filter is to translate. This one leads nowhere.
    text += "modprobe dummy numdummies=0\nbusybox ip link add uplink type dummy\nbusybox ip link set uplink up\n";
    text += "busybox ip addr add 192.0.2.2/24 dev uplink\nbusybox ip route add default via 192.0.2.1\n";
    text += "mkfifo /.vm/out /.vm/err\n";
    text += "port() { for p in /sys/class/virtio-ports/*; do [ \"$(cat $p/name)\" != $1 ] || [ ! -c /dev/${p##*/} ] || echo /dev/${p##*/}; done; }\n";
    // The kernel makes them when it gets to it, and numbers their bus as it likes.
    for (variable, name) in [("to_out", OUT), ("to_err", ERR), ("to_status", STATUS)] {
        let _ = writeln!(text, "until {variable}=$(port {name}) && [ -n \"${variable}\" ]; do busybox usleep 50000; done");
    }
    // A port takes one opener at a time; a pipe lets the program open its output again.
    text += "cat /.vm/out >$to_out & out=$!\ncat /.vm/err >$to_err & err=$!\n";
    text += "(\n";
    for (key, value) in env {
        let _ = writeln!(text, "export {key}={}", quote(value));
    }
    let line: Vec<String> = program.iter().map(|word| quote(word)).collect();
    let _ = writeln!(text, "cd {}\nexec {}", quote(&folder.display().to_string()), line.join(" "));
    text += ") </dev/null >/.vm/out 2>/.vm/err\ncode=$?\n";
    // What it has left running may hold its output open.
    text += "left=100\nwhile [ $left -gt 0 ] && { kill -0 $out || kill -0 $err; } 2>/dev/null; do left=$((left - 1)); busybox usleep 20000; done\n";
    text += "echo $code >$to_status\nwhile :; do sleep 1000; done\n";
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_words() {
        assert_eq!(quote("it's $HOME"), r"'it'\''s $HOME'");
    }

    #[test]
    fn the_program_gets_its_environment_and_folder() {
        let kernel = Kernel { release: "6".into(), image: "/k".into(), modules: "/m".into() };
        let text = script(&kernel, &[("A".into(), "1 2".into())], Path::new("/x y"), &["echo".into(), "a b".into()]);
        assert!(text.contains("export A='1 2'\ncd '/x y'\nexec 'echo' 'a b'\n"), "{text}");
    }
}
