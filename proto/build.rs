//! Compiles the .proto files without protoc: messages and services, their JSON mapping, and the descriptor set.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 4] = [
    "proto/zerkalo/record/v1/record.proto",
    "proto/zerkalo/agent/v1/agent.proto",
    "proto/zerkalo/journal/v1/journal.proto",
    "proto/zerkalo/operator/v1/operator.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::compile(FILES, ["proto"])?;
    let bytes = descriptors.encode_to_vec();
    std::fs::write(out.join("descriptors.bin"), &bytes)?;
    let services = descriptors.file.iter().filter(|file| file.package() == "zerkalo.operator.v1");
    let methods = services.flat_map(|file| &file.service).flat_map(|service| &service.method);
    let calls: Vec<&str> = methods.map(|method| method.name()).collect();
    std::fs::write(out.join("operator_calls.rs"), format!("&{calls:?}"))?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    pbjson_build::Builder::new()
        .register_descriptors(&bytes)?
        .ignore_unknown_fields()
        .build(&[".zerkalo.record.v1"])?;
    Ok(())
}
