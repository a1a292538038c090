//! A file that appears under its name when it is finished, and not before.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A file being written: into a temporary one beside it, which takes the name when [`Output::publish`] is
/// called and is removed otherwise. `-` is standard output, and devices and pipes are written to as they are.
pub struct Output(Kind);

enum Kind {
    Stream(BufWriter<Box<dyn Write>>),
    Beside { temporary: BufWriter<NamedTempFile>, path: PathBuf },
}

const BUFFER: usize = 256 << 10;

impl Output {
    /// Begins to write what is to become `path`.
    pub fn create(path: &Path) -> io::Result<Self> {
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
        let temporary = tempfile::Builder::new()
            .prefix(".lb-")
            // As any new file: what the umask leaves of it.
            .permissions(existing.unwrap_or_else(|| Permissions::from_mode(0o666)))
            .tempfile_in(directory)
            .map_err(|error| without_place(&error))?;
        Ok(Self(Kind::Beside { temporary: BufWriter::with_capacity(BUFFER, temporary), path }))
    }

    /// Gives the finished file its name, replacing what was there.
    pub fn publish(self) -> io::Result<()> {
        match self.0 {
            Kind::Stream(mut stream) => stream.flush(),
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

/// What the system said alone: tempfile adds a name that is gone and that nobody gave.
fn without_place(error: &io::Error) -> io::Error {
    let text = error.to_string();
    io::Error::new(error.kind(), text.split(" at path ").next().unwrap_or(&text))
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::Stream(stream) => stream.write(bytes),
            Kind::Beside { temporary, .. } => temporary.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Kind::Stream(stream) => stream.flush(),
            Kind::Beside { temporary, .. } => temporary.flush(),
        }
    }
}
