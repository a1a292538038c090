//! Tells when files change.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use inotify::{Inotify, WatchMask};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Notice;

/// Whoever writes several files, or one in pieces, is done when it was quiet for so long, in milliseconds.
const QUIET: u16 = 50;

/// Gives notice whenever something changes about these files and directories. Standard input never does.
///
/// Their directories are watched, not they: editors and Kubernetes' volumes put another file in place of the old one.
///
/// # Errors
/// A directory can't be watched.
pub(super) fn watch(paths: &[PathBuf], notice: Notice) -> anyhow::Result<()> {
    let mut inotify = Inotify::init()?;
    let mask = WatchMask::CLOSE_WRITE | WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE | WatchMask::ATTRIB;
    let directories: BTreeSet<PathBuf> =
        paths.iter().filter(|path| path.as_os_str() != "-").map(|path| directory(path)).collect();
    for directory in directories {
        inotify.watches().add(&directory, mask).map_err(|error| watching(&directory, &error))?;
    }
    std::thread::Builder::new().name("files".to_owned()).spawn(move || {
        let mut buffer = [0; 4096];
        while inotify.read_events_blocking(&mut buffer).is_ok() {
            while is_readable(&inotify) && inotify.read_events(&mut buffer).is_ok() {}
            if notice.give().is_err() {
                break;
            }
        }
    })?;
    Ok(())
}

fn watching(directory: &Path, error: &io::Error) -> anyhow::Error {
    anyhow::anyhow!("cannot watch {}: {error}", directory.display())
}

fn directory(path: &Path) -> PathBuf {
    if path.is_dir() {
        return path.to_path_buf();
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Whether something more happens before it has been quiet.
fn is_readable(inotify: &Inotify) -> bool {
    let mut waiting = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
    poll(&mut waiting, PollTimeout::from(QUIET)).is_ok_and(|count| count > 0)
}
