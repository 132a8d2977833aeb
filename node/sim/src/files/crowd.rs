//! Clients that fight over few names; what they leave behind is judged by the tree.

use std::cell::RefCell;
use std::rc::Rc;

use bark_client::session::Call;
use bark_core::random::Random;
use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::operation::{Command, Entry, Failure, Namespace, NewContent, Refusal, RenameMode, Reply};
use bytes::Bytes;

use super::{ATTRIBUTES, WORK_DEADLINE_MS, name};
use crate::client::Port;

/// Directories and files the crowd knows of; they may be gone already.
#[derive(Default)]
pub struct SharedTree {
    directories: Vec<InodeId>,
    files: Vec<InodeId>,
}

/// Fights with others over few names.
pub async fn crowd(port: Port, mut random: Random, tree: Rc<RefCell<SharedTree>>) {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    tree.borrow_mut().directories.push(InodeId::ROOT);
    while port.works() {
        let (one, other, file) = {
            let tree = tree.borrow();
            let any = |random: &mut Random| {
                // The oldest directories are met most, so that fights happen.
                let count = tree.directories.len().min(8) as u64;
                tree.directories[random.below(count) as usize]
            };
            let (one, other) = (any(&mut random), any(&mut random));
            let file = match tree.files.len() {
                0 => None,
                count => Some(tree.files[random.below(count as u64) as usize]),
            };
            (one, other, file)
        };
        let one_name = name(NAMES[random.below(4) as usize]);
        let other_name = name(NAMES[random.below(4) as usize]);
        let from = Entry {
            directory: one,
            name: one_name.clone(),
        };
        let to = Entry {
            directory: other,
            name: other_name,
        };
        let call = match random.below(12) {
            0..=3 => Call::Namespace(Namespace::MakeDirectory {
                directory: one,
                name: one_name,
                attributes: ATTRIBUTES,
            }),
            4..=5 => {
                let content = NewContent::Inline(Bytes::from_static(b"crowd"));
                let command = Command::Create {
                    directory: one,
                    name: one_name,
                    attributes: ATTRIBUTES,
                    content,
                    exclusive: false,
                };
                Call::Command {
                    partition: PartitionId(one.home().0),
                    command,
                }
            }
            6..=8 => Call::Namespace(Namespace::Rename {
                from,
                to,
                mode: match random.below(4) {
                    0 => RenameMode::NoReplace,
                    1 => RenameMode::Exchange,
                    _ => RenameMode::Replace,
                },
            }),
            9 => Call::Namespace(Namespace::Unlink {
                directory: one,
                name: one_name,
            }),
            10 => Call::Namespace(Namespace::RemoveDirectory {
                directory: one,
                name: one_name,
            }),
            _ => match file {
                Some(inode) => Call::Namespace(Namespace::Link { inode, to }),
                None => continue,
            },
        };
        let makes_directory = matches!(call, Call::Namespace(Namespace::MakeDirectory { .. }));
        match port.call(call, WORK_DEADLINE_MS).await {
            Ok(Reply::Created { attributes, .. }) if makes_directory => {
                tree.borrow_mut().directories.push(attributes.inode);
            }
            Ok(Reply::Created { attributes, .. }) => tree.borrow_mut().files.push(attributes.inode),
            Err(Failure::Refused(Refusal::Internal, sentence)) => {
                port.stage()
                    .fail(format!("the crowd met an internal error: {sentence}"));
            }
            _ => {}
        }
        port.sleep(random.below(30_000)).await;
    }
}
