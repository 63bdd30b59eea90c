//! Compresses the documentation, which is read only when somebody asks for OpenAPI, and makes a hash of what OpenAPI is made of.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=docs.txt");
    println!("cargo::rerun-if-changed=table.txt");
    let text = std::fs::read("docs.txt")?;
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(folder.join("docs.z"), miniz_oxide::deflate::compress_to_vec(&text, 9))?;
    // FNV-1a: it only has to differ when something changed.
    let table = std::fs::read("table.txt")?;
    let hash = table
        .iter()
        .chain(&text)
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    println!("cargo::rustc-env=WHARF_SCHEMA_REVISION={hash:016x}");
    Ok(())
}
