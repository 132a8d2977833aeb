//! A client that works in a tree of its own, and knows what every answer must be.
//!
//! `draw` makes changes of names and attributes, `content` of bytes, `look` reads what is there. All go through
//! [`Owner::attempt`], which compares what became of a change with what the reference tree foretold.

mod content;
mod draw;
mod look;

use bark_client::session::Call;
use bark_core::random::Random;
use bark_schema::allocator::Allocator;
use bark_schema::ids::{InodeId, NodeNumber};
use bark_schema::operation::{Namespace, Reply};
use bark_schema::placement::Ring;

use super::reference::{Foretold, Reference};
use super::{ATTRIBUTES, VERIFY_DEADLINE_MS, WORK_DEADLINE_MS, name};
use crate::client::{Fate, Phase, Port};

/// What of a call is told when it went wrong.
const STORY_SIZE_MAX: usize = 400;

struct Owner {
    port: Port,
    random: Random,
    number: usize,
    root: InodeId,
    reference: Reference,
    next_name: u64,
    next_block: u64,
    ring: Ring,
    allocator: Allocator,
    deadline_ms: u64,
}

pub async fn own(port: Port, random: Random, number: usize, nodes: u16) {
    let Some(root) = make_root(&port, &format!("client-{number}")).await else {
        return;
    };
    let mut owner = Owner {
        port: port.clone(),
        random,
        number,
        root,
        reference: Reference::new(root, InodeId::ROOT, &ATTRIBUTES),
        next_name: 0,
        next_block: 0,
        ring: ring(nodes),
        allocator: Allocator::new(number as u64),
        deadline_ms: WORK_DEADLINE_MS,
    };
    while port.works() {
        owner.step().await;
        let pause = owner.random.below(60_000);
        port.sleep(pause).await;
    }
    port.phase(Phase::Verify).await;
    owner.deadline_ms = VERIFY_DEADLINE_MS;
    owner.verify().await;
}

fn ring(nodes: u16) -> Ring {
    let ids: Vec<String> = (1..=nodes).map(|number| format!("node-{number}")).collect();
    let nodes: Vec<(NodeNumber, &str, &str)> = (1..)
        .zip(&ids)
        .map(|(number, id)| (NodeNumber(number), id.as_str(), ""))
        .collect();
    Ring::new(&nodes, 16)
}

/// A directory below the root, under the first of the names that can be had. None if the work is over before.
pub async fn make_root(port: &Port, prefix: &str) -> Option<InodeId> {
    let mut attempt = 0;
    while port.works() {
        attempt += 1;
        let call = Call::Namespace(Namespace::MakeDirectory {
            directory: InodeId::ROOT,
            name: name(&format!("{prefix}-{attempt}")),
            attributes: ATTRIBUTES,
        });
        match port.change(call, WORK_DEADLINE_MS).await {
            Fate::Done(Reply::Created { attributes, .. }) => return Some(attributes.inode),
            Fate::Done(other) => port.stage().fail(format!("mkdir was answered {other:?}")),
            Fate::Refused(refusal, sentence) => port
                .stage()
                .fail(format!("mkdir of a new name: {refusal:?}, {sentence}")),
            Fate::Nothing | Fate::Unsure => {}
        }
    }
    None
}

impl Owner {
    async fn step(&mut self) {
        match self.random.below(36) {
            0..=1 => self.make_directory().await,
            2..=5 => self.create().await,
            6..=7 => self.make_other_kind().await,
            8..=9 => self.write_inline().await,
            10..=11 => self.publish().await,
            12..=13 => self.read_one().await,
            14..=18 => self.rename().await,
            19..=20 => self.unlink().await,
            21 => self.remove_directory().await,
            22..=23 => self.link().await,
            24..=25 => self.set_attributes().await,
            26..=28 => self.change_xattr().await,
            29 => self.look_at_one().await,
            30..=31 => self.set_policy().await,
            32..=33 => self.tell_access().await,
            _ => self.list_one().await,
        }
    }

    /// Makes a change, and compares what became of it with what had to.
    async fn attempt(&mut self, call: Call) -> Fate {
        let foretold = self.reference.foretell(&call);
        let fate = self.port.change(call.clone(), self.deadline_ms).await;
        match (&foretold, &fate) {
            (Foretold::Done, Fate::Refused(refusal, sentence)) => self.fail(format!(
                "{} was refused ({refusal:?}: {sentence}) though nothing stood against it",
                story(&call)
            )),
            (Foretold::Refused(reasons), Fate::Refused(refusal, _)) if !reasons.contains(refusal) => self
                .fail(format!(
                    "{} was refused with {refusal:?} instead of {reasons:?}",
                    story(&call)
                )),
            (Foretold::Refused(reasons), Fate::Done(reply)) => self.fail(format!(
                "{} was done ({reply:?}) though it had to be refused with {reasons:?}",
                story(&call)
            )),
            (Foretold::Done, Fate::Done(reply)) => {
                if let Err(reason) = self.reference.carry_out(&call, reply) {
                    self.fail(format!("{}: {reason}", story(&call)));
                }
            }
            (Foretold::Open, Fate::Done(_)) | (_, Fate::Unsure) => self.reference.doubt(&call),
            _ => {}
        }
        fate
    }

    fn fail(&self, reason: String) {
        let stage = self.port.stage();
        stage.fail(format!("files of client {}: {reason}", self.number));
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() {
            return None;
        }
        Some(from[self.random.below(from.len() as u64) as usize].clone())
    }

    fn any_directory(&mut self) -> InodeId {
        let all = self.reference.directories();
        self.pick(&all).unwrap_or(self.root)
    }

    fn any_file(&mut self) -> Option<InodeId> {
        let all = self.reference.sure_files();
        self.pick(&all)
    }

    fn some_bytes(&mut self, size_max: u64) -> Vec<u8> {
        let size = 1 + self.random.below(size_max);
        (0..size).map(|_| self.random.next_u64() as u8).collect()
    }

    /// Everything acknowledged is there.
    async fn verify(&mut self) {
        for directory in self.reference.directories() {
            if !self.list(directory).await {
                return self.fail(format!("after the repair, {directory} cannot be listed"));
            }
        }
        for inode in self.reference.sure() {
            if !self.look_at(inode).await {
                return self.fail(format!("after the repair, {inode} cannot be looked at"));
            }
        }
        for inode in self.reference.sure_files() {
            if !self.read(inode).await {
                return self.fail(format!("after the repair, {inode} cannot be read"));
            }
        }
    }
}

fn story(call: &Call) -> String {
    let mut story = format!("{call:?}");
    if let Some((end, _)) = story.char_indices().nth(STORY_SIZE_MAX) {
        story.truncate(end);
    }
    story
}
