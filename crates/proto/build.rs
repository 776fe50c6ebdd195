//! Compiles `proto/` without a system `protoc`.

use std::error::Error;

use prost::Message;

const FILES: [&str; 10] = [
    "authorization/v2/authorization.proto",
    "buf/validate/validate.proto",
    "google/rpc/status.proto",
    "kas/kas.proto",
    "kasbah/admin/v1/admin.proto",
    "policy/attributes/attributes.proto",
    "policy/kasregistry/key_access_server_registry.proto",
    "policy/keymanagement/key_management.proto",
    "policy/unsafe/unsafe.proto",
    "wellknownconfiguration/wellknown_configuration.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    // Read when it runs: a build script outlives the checkout it was compiled in.
    let root = format!("{}/../../proto", std::env::var("CARGO_MANIFEST_DIR")?);
    println!("cargo:rerun-if-changed={root}");
    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(false);
    compiler.open_files(FILES)?;
    let descriptors = compiler.encode_file_descriptor_set();
    std::fs::write(format!("{}/descriptors.bin", std::env::var("OUT_DIR")?), &descriptors)?;
    let set = prost_types::FileDescriptorSet::decode(&*descriptors)?;
    // The token of a caller does not print; see `src/lib.rs`.
    let mut config = prost_build::Config::new();
    config.skip_debug([".entity.Token"]);
    tonic_prost_build::configure()
        .generate_default_stubs(true)
        .include_file("kasbah.rs")
        .compile_fds_with_config(set, config)?;
    Ok(())
}
