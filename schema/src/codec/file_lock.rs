//! Advisory locks: commands, questions and their answers.

use super::Result;
use super::reply::{read_attributes, write_attributes};
use crate::file_lock::{
    FileLock, LockAnswer, LockCommand, LockKind, LockMode, LockOwner, LockQuery, LockRange,
};
use crate::generated::common_capnp as wire;
use crate::ids::{ClientId, InodeId};

pub fn write_lock_command(command: &LockCommand, mut builder: wire::lock_command::Builder<'_>) {
    match command {
        LockCommand::Take { lock, wait, lease_ms } => {
            let mut group = builder.init_take();
            write_lock(lock, group.reborrow().init_lock());
            group.set_wait(*wait);
            group.set_lease_ms(*lease_ms);
        }
        LockCommand::Release { inode, owner, range } => {
            let mut group = builder.init_release();
            group.set_inode(inode.0);
            write_owner(owner, group.reborrow().init_owner());
            group.set_first(range.first);
            group.set_last(range.last);
        }
        LockCommand::Cancel { inode, client, wait } => {
            let mut group = builder.init_cancel();
            group.set_inode(inode.0);
            group.set_client(client.0);
            group.set_wait(*wait);
        }
        LockCommand::Renew { client, lease_ms } => {
            let mut group = builder.init_renew();
            group.set_client(client.0);
            group.set_lease_ms(*lease_ms);
        }
        LockCommand::Rejoin { client } => builder.set_rejoin(client.0),
        LockCommand::EndLeases { limit } => builder.set_end_leases(*limit),
    }
}

pub fn read_lock_command(reader: wire::lock_command::Reader<'_>) -> Result<LockCommand> {
    Ok(match reader.which()? {
        wire::lock_command::Take(group) => LockCommand::Take {
            lock: read_lock(group.get_lock()?)?,
            wait: group.get_wait(),
            lease_ms: group.get_lease_ms(),
        },
        wire::lock_command::Release(group) => LockCommand::Release {
            inode: InodeId(group.get_inode()),
            owner: read_owner(group.get_owner()?)?,
            range: LockRange {
                first: group.get_first(),
                last: group.get_last(),
            },
        },
        wire::lock_command::Cancel(group) => LockCommand::Cancel {
            inode: InodeId(group.get_inode()),
            client: ClientId(group.get_client()),
            wait: group.get_wait(),
        },
        wire::lock_command::Renew(group) => LockCommand::Renew {
            client: ClientId(group.get_client()),
            lease_ms: group.get_lease_ms(),
        },
        wire::lock_command::Rejoin(client) => LockCommand::Rejoin {
            client: ClientId(client),
        },
        wire::lock_command::EndLeases(limit) => LockCommand::EndLeases { limit },
    })
}

pub fn write_lock_query(query: &LockQuery, builder: wire::lock_query::Builder<'_>) {
    match query {
        LockQuery::Conflict { lock } => write_lock(lock, builder.init_conflict()),
        LockQuery::Waited { inode, client, wait } => {
            let mut group = builder.init_waited();
            group.set_inode(inode.0);
            group.set_client(client.0);
            group.set_wait(*wait);
        }
    }
}

pub fn read_lock_query(reader: wire::lock_query::Reader<'_>) -> Result<LockQuery> {
    Ok(match reader.which()? {
        wire::lock_query::Conflict(lock) => LockQuery::Conflict {
            lock: read_lock(lock?)?,
        },
        wire::lock_query::Waited(group) => LockQuery::Waited {
            inode: InodeId(group.get_inode()),
            client: ClientId(group.get_client()),
            wait: group.get_wait(),
        },
    })
}

pub(super) fn write_lock_answer(answer: &LockAnswer, mut builder: wire::lock_answer::Builder<'_>) {
    match answer {
        LockAnswer::Granted(attributes) => write_attributes(attributes, builder.init_granted()),
        LockAnswer::Waiting => builder.set_waiting(()),
        LockAnswer::Held(lock) => write_lock(lock, builder.init_held()),
        LockAnswer::Free => builder.set_free(()),
    }
}

pub(super) fn read_lock_answer(reader: wire::lock_answer::Reader<'_>) -> Result<LockAnswer> {
    Ok(match reader.which()? {
        wire::lock_answer::Granted(attributes) => {
            LockAnswer::Granted(Box::new(read_attributes(attributes?)?))
        }
        wire::lock_answer::Waiting(()) => LockAnswer::Waiting,
        wire::lock_answer::Held(lock) => LockAnswer::Held(read_lock(lock?)?),
        wire::lock_answer::Free(()) => LockAnswer::Free,
    })
}

fn write_lock(lock: &FileLock, mut builder: wire::file_lock::Builder<'_>) {
    builder.set_inode(lock.inode.0);
    write_owner(&lock.owner, builder.reborrow().init_owner());
    builder.set_first(lock.range.first);
    builder.set_last(lock.range.last);
    builder.set_exclusive(lock.mode == LockMode::Exclusive);
    builder.set_process(lock.process);
}

fn read_lock(reader: wire::file_lock::Reader<'_>) -> Result<FileLock> {
    Ok(FileLock {
        inode: InodeId(reader.get_inode()),
        owner: read_owner(reader.get_owner()?)?,
        range: LockRange {
            first: reader.get_first(),
            last: reader.get_last(),
        },
        mode: match reader.get_exclusive() {
            true => LockMode::Exclusive,
            false => LockMode::Shared,
        },
        process: reader.get_process(),
    })
}

fn write_owner(owner: &LockOwner, mut builder: wire::lock_owner::Builder<'_>) {
    builder.set_client(owner.client.0);
    builder.set_number(owner.number);
    builder.set_kind(match owner.kind {
        LockKind::Flock => wire::LockKind::Flock,
        LockKind::Range => wire::LockKind::Range,
    });
}

fn read_owner(reader: wire::lock_owner::Reader<'_>) -> Result<LockOwner> {
    Ok(LockOwner {
        client: ClientId(reader.get_client()),
        number: reader.get_number(),
        kind: match reader.get_kind()? {
            wire::LockKind::Flock => LockKind::Flock,
            wire::LockKind::Range => LockKind::Range,
        },
    })
}
