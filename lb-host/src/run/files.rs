//! Tells when files change.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use inotify::{Inotify, WatchMask};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Notice;

/// Whoever writes several files, or one in pieces, is done when it was quiet for so long, in milliseconds.
const QUIET: u16 = 50;

/// How long to wait, in milliseconds, before a directory that is gone is looked for again.
const GONE: u16 = 500;

/// Gives notice whenever something changes about these files and directories. Standard input never does.
///
/// Their directories are watched, not they: editors and Kubernetes' volumes put another file in place of the old one. So are those
/// that symbolic links lead to. One that goes is looked for until it is back.
///
/// # Errors
/// A directory can't be watched.
pub(super) fn watch(paths: &[PathBuf], notice: Notice) -> anyhow::Result<()> {
    let paths: Vec<PathBuf> = paths.iter().filter(|path| path.as_os_str() != "-").cloned().collect();
    let mut inotify = Inotify::init()?;
    for directory in paths.iter().map(|path| directory(path)) {
        add(&inotify, &directory).with_context(|| format!("cannot watch {}", directory.display()))?;
    }
    std::thread::Builder::new().name("files".to_owned()).spawn(move || {
        let mut all_there = add_all(&inotify, &paths);
        let mut buffer = [0; 4096];
        loop {
            let patience = if all_there { PollTimeout::NONE } else { PollTimeout::from(GONE) };
            let happened = is_readable(&inotify, patience);
            while is_readable(&inotify, PollTimeout::from(QUIET)) && inotify.read_events(&mut buffer).is_ok() {}
            // Whatever happened may have put another directory under a name.
            let are_there = add_all(&inotify, &paths);
            let is_back = are_there && !std::mem::replace(&mut all_there, are_there);
            if (happened || is_back) && notice.give().is_err() {
                break;
            }
        }
    })?;
    Ok(())
}

/// Watches a directory, or goes on to.
fn add(inotify: &Inotify, directory: &Path) -> io::Result<()> {
    let files = WatchMask::CLOSE_WRITE | WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE | WatchMask::ATTRIB;
    let itself = WatchMask::DELETE_SELF | WatchMask::MOVE_SELF;
    inotify.watches().add(directory, files | itself).map(drop)
}

/// Watches what these paths lead to now. Whether every one's own directory is there.
fn add_all(inotify: &Inotify, paths: &[PathBuf]) -> bool {
    let targets: BTreeSet<PathBuf> =
        paths.iter().filter_map(|path| path.canonicalize().ok()).map(|path| directory(&path)).collect();
    // One that is gone again by now was told of.
    targets.iter().for_each(|target| drop(add(inotify, target)));
    let own: BTreeSet<PathBuf> = paths.iter().map(|path| directory(path)).collect();
    own.iter().all(|directory| directory.is_dir() && add(inotify, directory).is_ok())
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

/// Whether something happens within this time.
fn is_readable(inotify: &Inotify, patience: PollTimeout) -> bool {
    let mut waiting = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
    poll(&mut waiting, patience).is_ok_and(|count| count > 0)
}
