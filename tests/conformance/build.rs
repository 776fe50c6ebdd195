//! Compiles `proto/`: the files of the suite's repository, github.com/connectrpc/conformance at v1.0.5,
//! as they are there.

use std::error::Error;

use prost::Message;

const FILES: [&str; 2] =
    ["connectrpc/conformance/v1/server_compat.proto", "connectrpc/conformance/v1/service.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = format!("{}/proto", std::env::var("CARGO_MANIFEST_DIR")?);
    println!("cargo:rerun-if-changed={root}");
    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(false);
    compiler.open_files(FILES)?;
    let descriptors = compiler.encode_file_descriptor_set();
    std::fs::write(format!("{}/descriptors.bin", std::env::var("OUT_DIR")?), &descriptors)?;
    let set = prost_types::FileDescriptorSet::decode(&*descriptors)?;
    let mut config = prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .build_client(false)
        .generate_default_stubs(true)
        .compile_fds_with_config(set, config)?;
    Ok(())
}
