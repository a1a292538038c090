//! A file that appears under its name when it is finished, and not before.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;
use tempfile::NamedTempFile;

/// A file being written: one without a name in the directory where it is to be, which takes its name when [`Output::publish`]
/// is called, so that nothing is left however the process ends. Where a file system has no such files it is a temporary one,
/// removed unless the process is killed. `-` is standard output, and devices and pipes are written to as they are.
pub struct Output(Kind);

enum Kind {
    Stream(BufWriter<Box<dyn Write>>),
    Nameless { file: BufWriter<File>, path: PathBuf },
    Beside { temporary: BufWriter<NamedTempFile>, path: PathBuf },
}

const BUFFER: usize = 256 << 10;

impl Output {
    /// Begins to write what is to become `path`.
    ///
    /// # Errors
    /// It can't be written there.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::begin(path, NEW)
    }

    /// The same, of what only its owner may read if it is a new file.
    ///
    /// # Errors
    /// It can't be written there.
    pub fn secret(path: &Path) -> io::Result<Self> {
        Self::begin(path, SECRET)
    }

    fn begin(path: &Path, mode: u32) -> io::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::stream(Box::new(io::stdout())));
        }
        let existing = match fs::metadata(path) {
            Ok(existing) if !existing.is_file() && !existing.is_dir() => {
                return Ok(Self::stream(Box::new(File::options().write(true).open(path)?)));
            }
            Ok(existing) if existing.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(existing) => Some(existing.permissions()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        // What a link leads to is replaced, not the link.
        let path = if existing.is_some() { fs::canonicalize(path)? } else { path.to_path_buf() };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if let Ok(file) = nameless(directory, existing.as_ref(), mode) {
            return Ok(Self(Kind::Nameless { file: BufWriter::with_capacity(BUFFER, file), path }));
        }
        let temporary = tempfile::Builder::new()
            .prefix(".lb-")
            .permissions(existing.unwrap_or_else(|| Permissions::from_mode(mode)))
            .tempfile_in(directory)
            .map_err(|error| without_place(&error))?;
        Ok(Self(Kind::Beside { temporary: BufWriter::with_capacity(BUFFER, temporary), path }))
    }

    /// Gives the finished file its name, replacing what was there.
    pub fn publish(self) -> io::Result<()> {
        match self.0 {
            Kind::Stream(mut stream) => stream.flush(),
            Kind::Nameless { file, path } => {
                let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
                match name(&file, &path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => replace(&file, &path),
                    named => named,
                }
            }
            Kind::Beside { temporary, path } => {
                let temporary = temporary.into_inner().map_err(io::IntoInnerError::into_error)?;
                temporary.persist(path).map_err(|error| without_place(&error.error))?;
                Ok(())
            }
        }
    }

    fn stream(inner: Box<dyn Write>) -> Self {
        Self(Kind::Stream(BufWriter::with_capacity(BUFFER, inner)))
    }
}

/// As any new file: what the umask leaves of it.
const NEW: u32 = 0o666;
const SECRET: u32 = 0o600;

/// A file in this directory that has no name.
fn nameless(directory: &Path, permissions: Option<&Permissions>, mode: u32) -> io::Result<File> {
    let mut options = File::options();
    let file = options.write(true).custom_flags(libc::O_TMPFILE).mode(mode).open(directory)?;
    permissions.map_or(Ok(()), |permissions| file.set_permissions(permissions.clone()))?;
    Ok(file)
}

/// Gives a nameless file a name that nobody has (open(2), O_TMPFILE).
fn name(file: &File, path: &Path) -> io::Result<()> {
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(AT_FDCWD, own.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?)
}

/// Gives a nameless file another's name in one step: by way of a name of its own, as the system has no shorter one.
fn replace(file: &File, path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let named = tempfile::Builder::new().prefix(".lb-").make_in(directory, |beside| name(file, beside));
    named.map_err(|error| without_place(&error))?.persist(path).map_err(|error| without_place(&error.error))?;
    Ok(())
}

/// What the system said alone: tempfile adds a name that is gone and that nobody gave.
fn without_place(error: &io::Error) -> io::Error {
    let text = error.to_string();
    io::Error::new(error.kind(), text.split(" at path ").next().unwrap_or(&text))
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::Stream(stream) => stream.write(bytes),
            Kind::Nameless { file, .. } => file.write(bytes),
            Kind::Beside { temporary, .. } => temporary.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Kind::Stream(stream) => stream.flush(),
            Kind::Nameless { file, .. } => file.flush(),
            Kind::Beside { temporary, .. } => temporary.flush(),
        }
    }
}
