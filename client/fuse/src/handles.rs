//! The numbers the kernel knows open files and directories by.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{Errno, FileHandle};

use crate::directory::DirectoryStream;
use crate::open_file::OpenFile;

#[derive(Clone, Debug)]
pub(crate) enum Handle {
    File(Arc<OpenFile>),
    Directory(Arc<DirectoryStream>),
}

#[derive(Debug, Default)]
pub(crate) struct Handles {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    handles: HashMap<u64, Handle>,
}

impl Handles {
    pub(crate) fn add(&self, handle: Handle) -> FileHandle {
        let mut table = self.lock();
        table.next += 1;
        let number = table.next;
        table.handles.insert(number, handle);
        FileHandle(number)
    }

    pub(crate) fn remove(&self, handle: FileHandle) -> Option<Handle> {
        self.lock().handles.remove(&handle.0)
    }

    pub(crate) fn file(&self, handle: FileHandle) -> Result<Arc<OpenFile>, Errno> {
        match self.lock().handles.get(&handle.0) {
            Some(Handle::File(file)) => Ok(file.clone()),
            _ => Err(Errno::EBADF),
        }
    }

    pub(crate) fn directory(&self, handle: FileHandle) -> Result<Arc<DirectoryStream>, Errno> {
        match self.lock().handles.get(&handle.0) {
            Some(Handle::Directory(directory)) => Ok(directory.clone()),
            _ => Err(Errno::EBADF),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
