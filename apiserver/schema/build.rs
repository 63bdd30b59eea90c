//! Compresses the documentation, which is read only when somebody asks for OpenAPI.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=docs.txt");
    let text = std::fs::read("docs.txt")?;
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(folder.join("docs.z"), miniz_oxide::deflate::compress_to_vec(&text, 9))?;
    Ok(())
}
