//! The committed Rust code is what the schema files say.
//!
//! Generated code is committed, so that building needs no schema compiler and readers see it.
//! `BARK_REGENERATE=1` (what `scripts/generate` sets) overwrites it instead of comparing.

use std::path::Path;
use std::process::Command;

/// The output names the version of the tool in its header, so another one would always differ.
const CAPNP_VERSION: &str = "Cap'n Proto version 0.9.2";
const SCHEMAS: [&str; 4] = ["common", "client", "peer", "log"];

#[test]
fn committed_code_is_what_the_schema_files_generate() {
    // Goal: nobody edits a schema and forgets the code. Method: generate anew and compare bytes.
    let regenerate = std::env::var_os("BARK_REGENERATE").is_some();
    match Command::new("capnp").arg("--version").output() {
        Ok(output) if String::from_utf8_lossy(&output.stdout).trim() == CAPNP_VERSION => {}
        found => {
            assert!(!regenerate, "capnp of {CAPNP_VERSION} is needed: {found:?}");
            println!("not compared: this test needs the tool capnp of {CAPNP_VERSION}");
            return;
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fresh = tempfile::tempdir().expect("a temporary directory");
    let mut command = capnpc::CompilerCommand::new();
    command
        .src_prefix(root.join("capnp"))
        // `-> stream` imports /capnp/stream.capnp, which is the vendored one.
        .import_path(root)
        .default_parent_module(vec!["generated".into()])
        .output_path(fresh.path());
    for schema in SCHEMAS {
        command.file(root.join("capnp").join(schema).with_extension("capnp"));
    }
    command.run().expect("the schema files compile");

    for schema in SCHEMAS {
        let name = format!("{schema}_capnp.rs");
        let committed = root.join("src/generated").join(&name);
        let text = std::fs::read_to_string(fresh.path().join(&name)).expect("generated code");
        if regenerate {
            std::fs::write(&committed, text).expect("the source folder is writable");
        } else {
            let have = std::fs::read_to_string(&committed).expect("committed code");
            assert!(have == text, "src/generated/{name} is old: run scripts/generate");
        }
    }
}
