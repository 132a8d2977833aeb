//! What is asked and told about advisory locks.

use bark_schema::file_lock::*;
use bark_schema::ids::ClientId;

use super::Generator;

impl Generator {
    fn lock_owner(&mut self) -> LockOwner {
        LockOwner {
            client: ClientId(self.number()),
            kind: match self.choose("LockKind", 2) {
                0 => LockKind::Flock,
                _ => LockKind::Range,
            },
            number: self.number(),
        }
    }

    fn lock_range(&mut self) -> LockRange {
        LockRange {
            first: self.number(),
            last: self.number(),
        }
    }

    fn file_lock(&mut self) -> FileLock {
        FileLock {
            inode: self.inode(),
            owner: self.lock_owner(),
            range: self.lock_range(),
            mode: match self.choose("LockMode", 2) {
                0 => LockMode::Shared,
                _ => LockMode::Exclusive,
            },
            process: self.u32(),
        }
    }

    pub(super) fn lock_command(&mut self) -> LockCommand {
        match self.choose("LockCommand", 6) {
            0 => LockCommand::Take {
                lock: self.file_lock(),
                wait: self.number(),
                lease_ms: self.u32(),
            },
            1 => LockCommand::Release {
                inode: self.inode(),
                owner: self.lock_owner(),
                range: self.lock_range(),
            },
            2 => LockCommand::Cancel {
                inode: self.inode(),
                client: ClientId(self.number()),
                wait: self.number(),
            },
            3 => LockCommand::Renew {
                client: ClientId(self.number()),
                lease_ms: self.u32(),
            },
            4 => LockCommand::Rejoin {
                client: ClientId(self.number()),
            },
            _ => LockCommand::EndLeases { limit: self.u32() },
        }
    }

    pub(super) fn lock_query(&mut self) -> LockQuery {
        match self.choose("LockQuery", 2) {
            0 => LockQuery::Conflict {
                lock: self.file_lock(),
            },
            _ => LockQuery::Waited {
                inode: self.inode(),
                client: ClientId(self.number()),
                wait: self.number(),
            },
        }
    }

    pub(super) fn lock_answer(&mut self) -> LockAnswer {
        match self.choose("LockAnswer", 4) {
            0 => LockAnswer::Granted(Box::new(self.attributes())),
            1 => LockAnswer::Waiting,
            2 => LockAnswer::Held(self.file_lock()),
            _ => LockAnswer::Free,
        }
    }
}
