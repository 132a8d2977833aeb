//! The same commands to a real redis-server and to this node must get the same bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use super::Node;

/// Ends what Redis answers to one line of the script.
const MARK: &str = "the-answer-ends-here";

/// One line, one command; each gets its own exchange.
const SCRIPT: &str = include_str!("script.txt");

struct Redis {
    process: Child,
    directory: std::path::PathBuf,
}

impl Redis {
    /// None where there is no redis-server.
    fn start(name: &str) -> Option<Redis> {
        let directory = std::env::temp_dir().join(format!("bark-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).ok()?;
        let started = Command::new("redis-server")
            .args([
                "--port",
                "0",
                "--unixsocket",
                "redis.sock",
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
            ])
            .arg(&directory)
            .current_dir(&directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut process) = started else {
            println!("skipped: no redis-server here");
            return None;
        };
        let mut lines = BufReader::new(process.stdout.take()?).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.contains("eady to accept connections")));
        assert!(ready, "redis-server did not start");
        // Keeps its output flowing.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Redis { process, directory })
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.directory.join("redis.sock")).expect("redis listens")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// What Redis answers; until it hangs up if `to_the_end`.
fn ask(stream: &mut UnixStream, line: &str, to_the_end: bool) -> String {
    let mut answer = Vec::new();
    if to_the_end {
        stream.write_all(line.as_bytes()).expect("redis reads");
        stream.read_to_end(&mut answer).expect("redis answers");
        return String::from_utf8_lossy(&answer).into_owned();
    }
    write!(stream, "{line}ECHO {MARK}\r\n").expect("redis reads");
    let end = format!("${}\r\n{MARK}\r\n", MARK.len());
    let mut chunk = [0; 4096];
    while !answer.ends_with(end.as_bytes()) {
        let count = stream.read(&mut chunk).expect("redis answers");
        assert!(count > 0, "redis hung up at {line:?}");
        answer.extend_from_slice(&chunk[..count]);
    }
    answer.truncate(answer.len() - end.len());
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn answers_are_byte_for_byte_those_of_redis() {
    // Goal: what client libraries see is what they expect, by one script to both.
    let Some(redis) = Redis::start("script") else {
        return;
    };
    let mut stream = redis.connect();
    let mut node = Node::new();
    let mut client = node.connect();
    let mut differences = Vec::new();
    for line in SCRIPT
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let line = format!("{line}\r\n");
        let expected = ask(&mut stream, &line, false);
        let (received, _) = node.exchange(&mut client, line.as_bytes());
        if received != expected {
            differences.push(format!("{line:?}\n  redis: {expected:?}\n  bark:  {received:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn broken_requests_end_as_they_do_with_redis() {
    // Goal: protocol errors have the same answer and the same end.
    let Some(redis) = Redis::start("broken") else {
        return;
    };
    let mut node = Node::new();
    let cases = [
        "*1\r\n$536870913\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n$x\r\n",
        "*x\r\n",
        "*1\r\nPING\r\n",
        "PING\r\n*2\r\n$4\r\nECHO\r\n$01\r\n",
        "SET a \"b\r\n",
        "SET a 'b'c\r\n",
        "QUIT\r\nPING\r\n",
    ];
    for case in cases {
        let expected = ask(&mut redis.connect(), case, true);
        let mut client = node.connect();
        assert_eq!(
            node.exchange(&mut client, case.as_bytes()),
            (expected, true),
            "for {case:?}"
        );
    }
}
