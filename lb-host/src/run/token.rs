//! The token in a file, as a service account has it: read for every question, as Kubernetes puts another in its place in time.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as Task, Poll};
use std::{fs, io};

use anyhow::Context;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use tower::{Layer, Service};

/// Shows the token of a file to whoever is asked; nothing where there is no file.
#[derive(Clone)]
pub(super) struct Token(Option<Arc<File>>);

struct File {
    path: PathBuf,
    /// The last that was read: it holds while there is none to be read.
    last: Mutex<HeaderValue>,
}

impl Token {
    /// The token of this file.
    ///
    /// # Errors
    /// It can't be read, or holds none.
    pub(super) fn of(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self(None)) };
        let last = read(path).with_context(|| format!("the token in {}", path.display()))?;
        Ok(Self(Some(Arc::new(File { path: path.to_path_buf(), last: Mutex::new(last) }))))
    }

    fn header(&self) -> Option<HeaderValue> {
        let file = self.0.as_ref()?;
        let mut last = file.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(token) = read(&file.path) {
            *last = token;
        }
        Some(last.clone())
    }
}

/// Whoever writes a file by hand ends it with a line's end.
fn read(path: &Path) -> io::Result<HeaderValue> {
    let text = fs::read_to_string(path)?;
    let token = Some(text.trim()).filter(|token| !token.is_empty());
    let header = token.and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok());
    let mut header = header.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "is none"))?;
    header.set_sensitive(true);
    Ok(header)
}

impl<S> Layer<S> for Token {
    type Service = Signed<S>;

    fn layer(&self, inner: S) -> Signed<S> {
        Signed { inner, token: self.clone() }
    }
}

/// A service that is shown the token with every question.
pub(super) struct Signed<S> {
    inner: S,
    token: Token,
}

impl<S: Service<Request<A>>, A> Service<Request<A>> for Signed<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, task: &mut Task<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, mut request: Request<A>) -> S::Future {
        let header = self.token.header();
        header.into_iter().for_each(|token| drop(request.headers_mut().insert(AUTHORIZATION, token)));
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_one_in_its_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let write = |text: &str| fs::write(file.path(), text).expect("written");
        for none in ["", "\n", "a\nb"] {
            write(none);
            assert!(Token::of(Some(file.path())).is_err(), "{none:?}");
        }
        write("first\n");
        let token = Token::of(Some(file.path())).expect("a token");
        let shown = || token.header().map(|header| header.to_str().expect("text").to_owned());
        assert_eq!(shown().as_deref(), Some("Bearer first"));
        write("second");
        assert_eq!(shown().as_deref(), Some("Bearer second"), "it was rotated");
        write("");
        assert_eq!(shown().as_deref(), Some("Bearer second"), "it is being written");
    }
}
