//! A file to which several threads add lines.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;

use super::unwritten::Unwritten;

/// One thread's way to the file. Lines get there whole, those of one thread in their order; one that can't is lost.
pub(super) struct Lines {
    begun: Vec<u8>,
    file: Arc<Mutex<BufWriter<File>>>,
    unwritten: Unwritten,
}

impl Lines {
    /// Adds to a file, which is made if there is none.
    ///
    /// # Errors
    /// It can't be written.
    pub(super) fn append(path: &Path, unwritten: Unwritten) -> anyhow::Result<Self> {
        let file = File::options().append(true).create(true).open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { begun: Vec::new(), file: Arc::new(Mutex::new(BufWriter::new(file))), unwritten })
    }

    fn file(&self) -> MutexGuard<'_, BufWriter<File>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last of them can't try again: its lines are lost.
impl Drop for Lines {
    fn drop(&mut self) {
        let Some(file) = Arc::get_mut(&mut self.file) else { return };
        let file = file.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.flush() {
            let lines = file.buffer().iter().filter(|octet| **octet == b'\n').count();
            self.unwritten.add(lines as u64, &error);
        }
    }
}

/// For another thread.
impl Clone for Lines {
    fn clone(&self) -> Self {
        Self { begun: Vec::new(), file: self.file.clone(), unwritten: self.unwritten.clone() }
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun.extend_from_slice(bytes);
        if self.begun.ends_with(b"\n") {
            // The buffer takes a line whole or not at all, and goes on in its midst where the file took half of it.
            let written = self.file().write_all(&self.begun);
            written.unwrap_or_else(|error| self.unwritten.add(1, &error));
            self.begun.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // What stays in the buffer is tried again with the next.
        let _ = self.file().flush();
        Ok(())
    }
}
