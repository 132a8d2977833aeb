//! The `bark` binary against a fake cluster: what it prints, where, and how it exits.

#[path = "../../lib/tests/fake/mod.rs"]
mod fake;

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use crate::fake::FakeCluster;

/// A cluster on its own runtime, so that the blocking `bark` processes do not stop it.
struct Fixture {
    _runtime: tokio::runtime::Runtime,
    nodes: Vec<String>,
    directory: tempfile::TempDir,
}

impl Fixture {
    fn start() -> Fixture {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let cluster = runtime.block_on(FakeCluster::start(3, 8));
        Fixture {
            nodes: cluster.addresses,
            _runtime: runtime,
            directory: tempfile::tempdir().expect("a directory"),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bark"));
        command
            .current_dir(self.directory.path())
            .env_remove("BARK_CLUSTER")
            .args(["--timeout", "10"])
            .args(self.nodes.iter().flat_map(|node| ["--node", node]))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Runs to success and gives standard output.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("bark runs");
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("bark runs");
        child
            .stdin
            .take()
            .expect("a pipe")
            .write_all(input)
            .expect("bark reads");
        child.wait_with_output().expect("bark ends")
    }

    fn fails(&self, arguments: &[&str], status: i32, line: &str) {
        let output = self.command(arguments).output().expect("bark runs");
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        assert_eq!(text(&output.stderr), format!("{line}\n"), "{arguments:?}");
        assert_eq!(text(&output.stdout), "");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect("one JSON value")
}

#[test]
fn files_go_in_and_come_out_through_pipes() {
    // Goal: `-` is standard input and output. Method: put, cat and get three megabytes.
    let fixture = Fixture::start();
    let content: Vec<u8> = (0..3_000_000_u32).map(|index| ((index * 7) >> 3) as u8).collect();
    assert!(
        fixture
            .run_with_input(&["put", "-", "/big"], &content)
            .status
            .success()
    );
    for arguments in [["cat", "/big"].as_slice(), &["get", "big", "-"]] {
        let output = fixture.command(arguments).output().unwrap();
        assert!(output.stdout == content, "{arguments:?} gave other bytes");
    }
    fixture.run(&["cp", "/big", "/copy"]);
    assert_eq!(
        json(&fixture.run(&["stat", "--json", "/copy"]))["size"],
        3_000_000
    );
}

#[test]
fn trees_keep_modes_times_and_links_both_ways() {
    // Goal: put -r and get -r lose nothing. Method: a tree with forty files there and back.
    let fixture = Fixture::start();
    let source = fixture.directory.path().join("source");
    std::fs::create_dir_all(source.join("sub/deep")).unwrap();
    for number in 0..40 {
        std::fs::write(source.join(format!("sub/{number}")), format!("content {number}")).unwrap();
    }
    std::fs::write(source.join("sub/deep/script"), "#!/bin/sh\n").unwrap();
    let script = std::fs::File::open(source.join("sub/deep/script")).unwrap();
    script
        .set_permissions(std::fs::Permissions::from_mode(0o750))
        .unwrap();
    script
        .set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000))
        .unwrap();
    symlink("sub/7", source.join("link")).unwrap();
    let put = json(&fixture.run(&["put", "-r", "--json", "source", "/"]));
    assert_eq!(put["files"], 42);
    assert_eq!(put["path"], "/source");
    assert_eq!(fixture.run(&["cat", "/source/link"]), "content 7");
    fixture.run(&["mv", "/source", "/moved"]);
    fixture.run(&["get", "-r", "/moved", "back"]);
    let back = fixture.directory.path().join("back");
    assert_eq!(
        std::fs::read_link(back.join("link")).unwrap().to_str(),
        Some("sub/7")
    );
    assert_eq!(
        std::fs::read_to_string(back.join("sub/39")).unwrap(),
        "content 39"
    );
    let script = std::fs::metadata(back.join("sub/deep/script")).unwrap();
    assert_eq!((script.mode() & 0o777, script.mtime()), (0o750, 1_000_000));
    let listed = json(&fixture.run(&["ls", "--json", "-R", "/moved"]));
    assert_eq!(listed.as_array().unwrap().len(), 44);
    fixture.run(&["rm", "-r", "/moved"]);
    assert_eq!(fixture.run(&["ls"]), "");
}

#[test]
fn errors_are_one_line_with_verb_and_subject() {
    // Goal: scripts and people see what was at fault, and the right exit status. Method: table.
    let fixture = Fixture::start();
    fixture.run(&["mkdir", "-p", "/a/b"]);
    fixture.fails(&["cat", "/a/x"], 1, "bark: cat: /a/x: No such file or directory");
    fixture.fails(&["cat", "a"], 1, "bark: cat: /a: Is a directory");
    fixture.fails(&["mkdir", "/a"], 1, "bark: mkdir: /a: File exists");
    fixture.fails(&["rm", "/a"], 1, "bark: rm: /a: Is a directory");
    fixture.fails(
        &["put", "absent", "/x"],
        1,
        "bark: put: absent: No such file or directory",
    );
    fixture.fails(&["key", "get", "absent"], 1, "bark: key get: absent: No such key");
    let output = fixture.command(&["frobnicate"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let mut nobody = Command::new(env!("CARGO_BIN_EXE_bark"));
    let output = nobody.args(["--node", "127.0.0.1:1", "ls"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("bark: ls: cluster: no node answers (127.0.0.1:1"));
    let mut misconfigured = Command::new(env!("CARGO_BIN_EXE_bark"));
    let output = misconfigured
        .args(["--cluster", "/no/such.toml", "ls"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn keys_print_as_redis_cli_would() {
    // Goal: values and counts, one a line. Method: each verb once.
    let fixture = Fixture::start();
    assert_eq!(fixture.run(&["key", "set", "name", "Ada"]), "OK\n");
    assert_eq!(fixture.run(&["key", "get", "name"]), "Ada\n");
    assert_eq!(fixture.run(&["key", "incr", "n"]), "1\n");
    assert_eq!(fixture.run(&["key", "decr", "n", "5"]), "-4\n");
    assert_eq!(fixture.run(&["key", "ttl", "name"]), "-1\n");
    assert_eq!(fixture.run(&["key", "ttl", "absent"]), "-2\n");
    assert_eq!(fixture.run(&["key", "exists", "name", "absent"]), "1\n");
    assert_eq!(fixture.run(&["key", "scan", "na"]).lines().next(), Some("name"));
    assert_eq!(fixture.run(&["key", "del", "name", "n", "absent"]), "2\n");
    assert_eq!(
        json(&fixture.run(&["key", "scan", "--json"])),
        serde_json::json!([])
    );
}

#[test]
fn cluster_verbs_name_every_node_and_partition() {
    // Goal: operators see the whole cluster. Method: three nodes, eight partitions, all reachable.
    let fixture = Fixture::start();
    let status = json(&fixture.run(&["status", "--json"]));
    assert_eq!(
        (&status["health"], &status["nodes_reachable"]),
        (&"healthy".into(), &3.into())
    );
    assert_eq!(
        json(&fixture.run(&["nodes", "--json"])).as_array().unwrap().len(),
        3
    );
    assert_eq!(
        json(&fixture.run(&["partitions", "--json"]))
            .as_array()
            .unwrap()
            .len(),
        8
    );
    assert_eq!(fixture.run(&["nodes"]).lines().count(), 4);
    assert!(fixture.run(&["df"]).contains("node-3"));
    assert!(fixture.run(&["locate", "some-key"]).starts_with("partition: "));
    fixture.run(&["touch", "/file"]);
    assert_eq!(
        json(&fixture.run(&["locate", "--json", "/file"]))["content"],
        "inline"
    );
    assert!(fixture.run(&["tree"]).contains("└── file"));
}

#[test]
fn closed_pipe_ends_quietly() {
    // Goal: `bark cat big | head -c 1` complains about nothing. Method: close the pipe after one byte.
    let fixture = Fixture::start();
    assert!(
        fixture
            .run_with_input(&["put", "-", "/big"], &vec![7; 4_000_000])
            .status
            .success()
    );
    let mut command = fixture.command(&["cat", "/big"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn explain_does_what_the_verb_does_and_leaves_nothing_behind() {
    // Goal: every verb is explained, its parts are no longer than the whole, and nothing stays. Method: each of them.
    let fixture = Fixture::start();
    fixture.run(&["mkdir", "/directory"]);
    assert!(
        fixture
            .run_with_input(&["put", "-", "/directory/file"], b"hello")
            .status
            .success()
    );
    let before = fixture.run(&["ls", "-la", "/directory"]);
    for (verb, path, part) in [
        ("stat", "/directory/file", "walk a path"),
        ("ls", "/directory", "list a directory"),
        ("cat", "/directory/file", "walk a path"),
        ("write", "/directory", "create"),
        ("write", "/directory/file", "create"),
        ("mkdir", "/directory", "make a directory"),
    ] {
        let explained = json(&fixture.run(&["explain", verb, path, "--json"]));
        assert_eq!(explained["verb"], verb);
        let whole = explained["elapsed_us"].as_u64().expect("a number");
        let requests = explained["requests"].as_array().expect("a list");
        assert!(
            requests.iter().any(|request| request["what"] == part),
            "{explained}"
        );
        for request in requests {
            let elapsed = request["elapsed_us"].as_u64().expect("a number");
            assert!(elapsed <= whole, "{explained}");
            assert!(request["network_us"].as_u64().expect("a number") <= elapsed);
            assert_eq!(request["spans"][0]["phase"], "request");
        }
        let text = fixture.run(&["explain", verb, path]);
        assert!(text.starts_with(&format!("{verb} {path}: ")), "{text}");
        assert!(text.contains("network, there and back"), "{text}");
        assert_eq!(
            fixture.run(&["ls", "-la", "/directory"]),
            before,
            "{verb} {path} left something"
        );
    }
    fixture.fails(
        &["explain", "stat", "/missing"],
        1,
        "bark: explain: /missing: No such file or directory",
    );
}
