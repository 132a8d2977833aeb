//! `bark explain VERB PATH`: does it once, as the verb would, and shows where the time went.
//!
//! Reading verbs read; `write` and `mkdir` make something new beside what is there, which is removed afterwards,
//! so nothing is changed. The connections are open before the clock starts.

use std::ffi::OsString;
use std::time::Instant;

use bark_client::{Client, ClusterPath, TracedCall};
use bark_schema::ids::NodeNumber;
use bark_schema::operation::FileKind;
use bark_schema::trace::{Span, TracePhase};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::cluster_path;
use crate::output::Output;
use crate::problem::Problem;

/// Most bytes `cat` reads: what there is to see is seen by then.
const READ_SIZE_MAX: u64 = 16 << 20;
/// Most bytes `write` writes.
const WRITE_SIZE_MAX: u64 = 64 << 20;

#[derive(Debug, Args)]
pub struct Explain {
    #[arg(value_enum)]
    verb: Explained,
    /// `write` and `mkdir` work in this directory, or beside this file.
    path: OsString,
    /// How many bytes `write` writes.
    #[arg(long, default_value_t = 4096, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(0..=WRITE_SIZE_MAX))]
    size: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Explained {
    /// The attributes of a file.
    Stat,
    /// A directory, with attributes.
    Ls,
    /// The first 16 MiB of a file.
    Cat,
    /// A new file, which is removed again.
    Write,
    /// A new directory, which is removed again.
    Mkdir,
}

impl Explain {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let path = cluster_path(&self.path)?;
        let target = match self.verb {
            Explained::Write | Explained::Mkdir => new_beside(client, path.clone()).await?,
            _ => path.clone(),
        };
        let mut config = client.config().clone();
        config.traced = true;
        let traced = Client::connect(config).await?;
        // Opens the connections, and teaches the client who leads.
        for node in &client.welcome().nodes {
            // One that is away is met again, and told, if it is needed.
            let _ = traced.cluster_status(Some(node.number)).await;
        }
        traced.take_traces();
        let started = Instant::now();
        let done = self.carry_out(&traced, &target).await;
        let elapsed_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let calls = traced.take_traces();
        match self.verb {
            Explained::Write if done.is_ok() => client.files().remove_file(&target).await?,
            Explained::Mkdir if done.is_ok() => client.files().remove_directory(&target).await?,
            _ => {}
        }
        done?;
        let names = Names { client };
        let name = self.verb.to_possible_value();
        let verb = name.as_ref().map_or("", |name| name.get_name());
        let count = calls.len();
        output.line(format_args!(
            "{verb} {path}: {} in {count} request{}",
            milliseconds(elapsed_us),
            if count == 1 { "" } else { "s" }
        ))?;
        for call in &calls {
            show(&names, call, output)?;
        }
        output.value(json!({
            "verb": verb,
            "path": path.to_string(),
            "elapsed_us": elapsed_us,
            "requests": calls.iter().map(|call| call_json(&names, call)).collect::<Vec<_>>(),
        }))
    }

    async fn carry_out(&self, client: &Client, path: &ClusterPath) -> Result<(), Problem> {
        let files = client.files();
        match self.verb {
            Explained::Stat => {
                files.stat(path).await?;
            }
            Explained::Ls => {
                let mut listing = files.list(path).await?;
                while !listing.next_page_with_attributes().await?.is_empty() {}
            }
            Explained::Cat => {
                let mut reader = files.read(path, ..READ_SIZE_MAX).await?;
                while reader.next_chunk().await?.is_some() {}
            }
            Explained::Write => {
                let content = Bytes::from(vec![b'.'; self.size as usize]);
                files.write(path, content).await?;
            }
            Explained::Mkdir => files.make_directory(path, 0o755).await?,
        }
        Ok(())
    }
}

/// A name nobody uses, in the directory at a path or beside the file there.
async fn new_beside(client: &Client, path: ClusterPath) -> Result<ClusterPath, Problem> {
    let directory = match client.files().stat(&path).await {
        Ok(attributes) if attributes.kind == FileKind::Directory => path,
        Ok(_) => path.parent().unwrap_or(path),
        Err(error) if error.is_not_found() => path.parent().unwrap_or(path),
        Err(error) => return Err(error.into()),
    };
    let name = format!(".bark-explain-{:016x}", client.id().0);
    Ok(directory.join(&Bytes::from(name)))
}

struct Names<'a> {
    client: &'a Client,
}

impl Names<'_> {
    fn of(&self, node: NodeNumber) -> String {
        let nodes = self.client.welcome().nodes.iter();
        let mut known = nodes.filter(|known| known.number == node);
        known
            .next()
            .map_or_else(|| node.to_string(), |known| known.id.clone())
    }
}

fn show(names: &Names<'_>, call: &TracedCall, output: &mut Output) -> Result<(), Problem> {
    let mut line = |depth: usize, what: &str, took_us: u64| {
        let what = format!("{:width$}{what}", "", width = 2 + 2 * depth);
        output.line(format_args!("{what:<72} {:>12}", milliseconds(took_us)))
    };
    let Some(node) = call.node else {
        return line(
            0,
            &format!("{}: refused, so its parts are not told", call.what),
            call.elapsed_us(),
        );
    };
    let node = names.of(node);
    line(0, &format!("{}, asked of {node}", call.what), call.elapsed_us())?;
    let away_us = call.elapsed_us().saturating_sub(call.at_node_us());
    line(
        1,
        &format!("network, there and back, and waiting for a turn of {node}"),
        away_us,
    )?;
    for span in &call.spans {
        line(
            1 + usize::from(span.depth),
            &describe(names, span),
            span.until_us.saturating_sub(span.from_us),
        )?;
    }
    Ok(())
}

/// What went on in a span, in plain words.
fn describe(names: &Names<'_>, span: &Span) -> String {
    let node = names.of(span.node);
    let partition = span
        .partition
        .map_or_else(|| "the node".to_owned(), |partition| partition.to_string());
    match span.phase {
        TracePhase::Request => match span.partition {
            Some(partition) => format!("{node}: {}, {partition}", span.what),
            None => format!("{node}: {}", span.what),
        },
        TracePhase::Worker => format!("worker: until {partition} took it up"),
        TracePhase::Batch => "queue: gathered into one log entry with what came beside it".to_owned(),
        TracePhase::Sync => format!("fsync: in {node}'s own log, on disk"),
        TracePhase::Follower => format!("{node} has it in its log and said so"),
        TracePhase::Commit => "consensus: until a quorum had it and it was applied".to_owned(),
        TracePhase::Confirm => {
            "consensus: until a quorum said that the leader still leads, and the read".to_owned()
        }
        TracePhase::BlockStore => format!("block store of {node}"),
    }
}

fn call_json(names: &Names<'_>, call: &TracedCall) -> Value {
    json!({
        "what": call.what,
        "node": call.node.map(|node| names.of(node)),
        "partition": call.partition.map(|partition| partition.0),
        "from_us": call.from_us,
        "elapsed_us": call.elapsed_us(),
        "network_us": call.elapsed_us().saturating_sub(call.at_node_us()),
        "spans": call.spans.iter().map(|span| json!({
            "phase": phase_name(span.phase),
            "node": names.of(span.node),
            "partition": span.partition.map(|partition| partition.0),
            "depth": span.depth,
            "from_us": span.from_us,
            "until_us": span.until_us,
            "what": span.what,
        })).collect::<Vec<_>>(),
    })
}

fn phase_name(phase: TracePhase) -> &'static str {
    match phase {
        TracePhase::Request => "request",
        TracePhase::Worker => "worker",
        TracePhase::Batch => "queue",
        TracePhase::Sync => "fsync",
        TracePhase::Follower => "follower",
        TracePhase::Commit => "commit",
        TracePhase::Confirm => "confirm",
        TracePhase::BlockStore => "block-store",
    }
}

fn milliseconds(micros: u64) -> String {
    format!("{}.{:03} ms", micros / 1000, micros % 1000)
}
