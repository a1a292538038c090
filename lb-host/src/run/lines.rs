//! A file to which several threads add lines.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;

/// One thread's way to the file. Lines get there whole, those of one thread in their order.
pub(super) struct Lines {
    begun: Vec<u8>,
    file: Arc<Mutex<BufWriter<File>>>,
}

impl Lines {
    /// Adds to a file, which is made if there is none.
    ///
    /// # Errors
    /// It can't be written.
    pub(super) fn append(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().append(true).create(true).open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { begun: Vec::new(), file: Arc::new(Mutex::new(BufWriter::new(file))) })
    }

    fn file(&self) -> MutexGuard<'_, BufWriter<File>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For another thread.
impl Clone for Lines {
    fn clone(&self) -> Self {
        Self { begun: Vec::new(), file: self.file.clone() }
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun.extend_from_slice(bytes);
        if self.begun.ends_with(b"\n") {
            self.file().write_all(&self.begun)?;
            self.begun.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}
