//! `bark doctor`: whether everything the cluster keeps agrees, one sentence for each thing that does not; and with
//! `--repair`, putting that right.
//!
//! Nothing is changed without being asked for. A repair keeps each step in a journal before it does it, and `--undo`
//! takes those steps back. Exit status 0: clean; 1: there are findings, or steps that could not be taken back.

mod journal;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bark_client::doctor::{
    End, Finding, Kept, Left, Members, Report, Source, Surgeon, Undone, examine, repair, undo,
};
use bark_client::session::Call;
use bark_client::{Client, ClusterPath};
use bark_schema::ids::{InodeId, NodeNumber, PartitionId};
use bark_schema::operation::{Command, Failure, NodeRequest, Query, Refusal, Reply};
use clap::Args;
use serde_json::{Value, json};

use self::journal::Journal;
use crate::output::Output;
use crate::problem::Problem;

/// Between two looks at what seems not to agree: longer than a transaction takes.
const PAUSE: Duration = Duration::from_millis(300);
/// Where what lost its name gets one.
const QUARANTINE: &str = "/.bark/lost+found";
/// For whoever runs the cluster, as in other file systems.
const QUARANTINE_MODE: u32 = 0o700;

#[derive(Debug, Args)]
pub struct Doctor {
    /// Put right what can be. Nothing is deleted: what lost its name gets one in /.bark/lost+found.
    #[arg(long, conflicts_with = "undo")]
    repair: bool,
    /// Where --repair keeps what it changes, for --undo [default: bark-doctor-TIME.journal here].
    #[arg(long, value_name = "FILE", requires = "repair")]
    journal: Option<PathBuf>,
    /// Take back the steps of a repair, where nothing has changed since.
    #[arg(long, value_name = "JOURNAL")]
    undo: Option<PathBuf>,
}

impl Doctor {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let nodes = client.welcome().nodes.iter();
        let members = Members {
            partition_count: client.welcome().partition_count,
            nodes: nodes.map(|node| (node.number, node.id.clone())).collect(),
        };
        if let Some(path) = &self.undo {
            return take_back(client, path, output).await;
        }
        if self.repair {
            let path = self.journal.unwrap_or_else(journal_path);
            return put_right(client, &members, path, output).await;
        }
        let cluster = Cluster {
            client,
            journal: RefCell::new(None),
        };
        let report = examine(&cluster, &members).await;
        show(&report, output)?;
        output.value(report_json(&report))?;
        output.finish()?;
        count_problem(&report)
    }
}

async fn put_right(
    client: &Client,
    members: &Members,
    path: PathBuf,
    output: &mut Output,
) -> Result<(), Problem> {
    let surgeon = Cluster {
        client,
        journal: RefCell::new(Some(Journal::new(path, &client.welcome().cluster))),
    };
    let repaired = repair(&surgeon, members).await;
    for what in &repaired.steps {
        output.line(format_args!("repaired: {what}"))?;
    }
    for Left { finding, why } in &repaired.left {
        output.line(format_args!("left: {}: {why}", finding.place))?;
    }
    show(&repaired.report, output)?;
    let journal = surgeon.journal.borrow();
    let written = journal.as_ref().and_then(Journal::written);
    if let Some(path) = written {
        let path = path.display();
        output.line(format_args!("to take it back: bark doctor --undo {path}"))?;
    }
    let left = repaired.left.iter().map(
        |left| json!({ "place": left.finding.place, "finding": left.finding.sentence, "why": left.why }),
    );
    let mut value = report_json(&repaired.report);
    value["repaired"] = json!(repaired.steps);
    value["left"] = left.collect();
    value["journal"] = json!(written.map(|path| path.display().to_string()));
    output.value(value)?;
    output.finish()?;
    count_problem(&repaired.report)
}

/// The newest step first, as whatever rests on another was done after it.
async fn take_back(client: &Client, path: &Path, output: &mut Output) -> Result<(), Problem> {
    let found = journal::read(path).map_err(|error| Problem::local(path, error))?;
    let cluster = &client.welcome().cluster;
    if found.cluster != *cluster {
        let sentence = format!(
            "it is of the cluster {}, and this one is {cluster}",
            found.cluster
        );
        return Err(Problem::failed(path.display(), sentence));
    }
    let journal = Journal::open(path, cluster).map_err(|error| Problem::local(path, error))?;
    let surgeon = Cluster {
        client,
        journal: RefCell::new(Some(journal)),
    };
    let (mut undone, mut left) = (Vec::new(), Vec::new());
    for step in found.steps.iter().rev() {
        match undo(&surgeon, step).await {
            Undone::Done => {
                output.line(format_args!("undone: {}", step.what))?;
                undone.push(json!(step.what));
            }
            Undone::Nothing => {}
            Undone::Left(why) => {
                output.line(format_args!("left: {}: {why}", step.what))?;
                left.push(json!({ "step": step.number, "finding": step.what, "why": why }));
            }
        }
    }
    let (count, lefts) = (undone.len(), left.len());
    output.line(format_args!("{count} of {} steps undone", count + lefts))?;
    output.value(json!({ "undone": undone, "left": left }))?;
    output.finish()?;
    match lefts {
        0 => Ok(()),
        count => Err(Problem::failed(
            path.display(),
            format_args!("{count} steps are left"),
        )),
    }
}

fn journal_path() -> PathBuf {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0, |now| now.as_secs());
    format!("bark-doctor-{seconds}-{}.journal", std::process::id()).into()
}

fn count_problem(report: &Report) -> Result<(), Problem> {
    match report.findings.len() as u64 + report.more {
        0 => Ok(()),
        1 => Err(Problem::failed("cluster", "1 finding")),
        count => Err(Problem::failed("cluster", format_args!("{count} findings"))),
    }
}

fn show(report: &Report, output: &mut Output) -> Result<(), Problem> {
    for finding in &report.findings {
        output.line(format_args!("{}: {}", finding.place, finding.sentence))?;
        output.line(format_args!("    what to do: {}", finding.kind.advice()))?;
    }
    for note in &report.notes {
        output.line(format_args!("not looked at: {note}"))?;
    }
    let looked = &report.looked;
    output.line(format_args!(
        "{}: {} entries, {} names of inodes, {} blocks and {} copies of them were looked at",
        match report.findings.len() as u64 + report.more {
            0 => "clean".to_owned(),
            1 => "1 finding".to_owned(),
            count => format!("{count} findings"),
        },
        looked.entries,
        looked.names,
        looked.blocks,
        looked.copies
    ))
}

fn report_json(report: &Report) -> Value {
    let looked = &report.looked;
    json!({
        "clean": report.is_clean(),
        "complete": report.notes.is_empty(),
        "findings": report.findings.iter().map(finding_json).collect::<Vec<_>>(),
        "more_findings": report.more,
        "notes": report.notes,
        "looked_at": {
            "rows": looked.rows,
            "entries": looked.entries,
            "names": looked.names,
            "blocks": looked.blocks,
            "copies": looked.copies,
        },
    })
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "kind": finding.kind.name(),
        "place": finding.place,
        "finding": finding.sentence,
        "advice": finding.kind.advice(),
        "partition": finding.partition.map(|partition| partition.0),
        "node": finding.node.map(|node| node.0),
        "inode": finding.inode.map(|inode| inode.0.to_string()),
        "directory": finding.directory.map(|inode| inode.0.to_string()),
        "block": finding.block.map(|block| block.to_string()),
    })
}

struct Cluster<'a> {
    client: &'a Client,
    /// Of who changes anything.
    journal: RefCell<Option<Journal>>,
}

impl Cluster<'_> {
    fn write(&self, write: impl FnOnce(&mut Journal) -> std::io::Result<()>) -> Result<(), Failure> {
        let mut journal = self.journal.borrow_mut();
        let written = match &mut *journal {
            Some(journal) => write(journal),
            None => Err(std::io::Error::other("nothing is changed without a journal")),
        };
        written.map_err(|error| Failure::refused(Refusal::Internal, error.to_string()))
    }
}

impl Source for Cluster<'_> {
    async fn query(&self, partition: PartitionId, query: Query) -> Result<Reply, Failure> {
        self.client.call(Call::Query { partition, query }).await
    }

    async fn node(&self, node: NodeNumber, request: NodeRequest) -> Result<Reply, Failure> {
        self.client.call(Call::NamedNode(node, request)).await
    }

    async fn pause(&self) {
        tokio::time::sleep(PAUSE).await;
    }
}

impl Surgeon for Cluster<'_> {
    async fn command(&self, partition: PartitionId, command: Command) -> Result<Reply, Failure> {
        self.client.call(Call::Command { partition, command }).await
    }

    async fn quarantine(&self) -> Result<InodeId, Failure> {
        let failed = |error: bark_client::Error| Failure::refused(Refusal::Internal, error.to_string());
        let path = ClusterPath::parse(QUARANTINE.as_bytes()).map_err(failed)?;
        let files = self.client.files();
        files
            .make_directories(&path, QUARANTINE_MODE)
            .await
            .map_err(failed)?;
        Ok(files.stat_link(&path).await.map_err(failed)?.inode)
    }

    async fn keep(&self, step: &Kept) -> Result<(), Failure> {
        self.write(|journal| journal.keep(step))
    }

    async fn ended(&self, step: &Kept, end: End) -> Result<(), Failure> {
        self.write(|journal| journal.ended(step, end))
    }
}
