//! Compiles `/proto` without an installed protoc.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files: Vec<_> = ["cluster", "agent", "raft", "state"]
        .iter()
        .map(|name| root.join(format!("quoin/v1/{name}.proto")))
        .filter(|path| path.exists())
        .collect();
    println!("cargo::rerun-if-changed={}", root.display());
    let descriptors = protox::compile(&files, [&root])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
