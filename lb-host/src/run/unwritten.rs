//! What could not be written about the traffic, as on a full disk. Nobody's packets wait for a disk: it is counted and told, and
//! all goes on.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Lines that are lost, for whoever tells of them.
#[derive(Clone, Default)]
pub(super) struct Unwritten(Arc<Mutex<Lost>>);

#[derive(Default)]
struct Lost {
    lines: u64,
    told: u64,
    /// Why the last was.
    why: String,
}

impl Unwritten {
    fn lost(&self) -> MutexGuard<'_, Lost> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many lines are lost.
    pub(super) fn add(&self, lines: u64, why: &io::Error) {
        let mut lost = self.lost();
        lost.lines += lines;
        lost.why = why.to_string();
    }

    /// How many are lost since this was last asked, and why the last of them is.
    pub(super) fn news(&self) -> Option<(u64, String)> {
        let mut lost = self.lost();
        let lines = lost.lines - lost.told;
        lost.told = lost.lines;
        (lines > 0).then(|| (lines, lost.why.clone()))
    }

    /// In the end.
    ///
    /// # Errors
    /// Some are lost.
    pub(super) fn none(&self) -> anyhow::Result<()> {
        let Lost { lines, why, .. } = &*self.lost();
        anyhow::ensure!(*lines == 0, "{lines} lines about flows could not be written: {why}");
        Ok(())
    }
}
