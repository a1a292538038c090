//! The way to an API server: a configuration that can be used, a client that does not press a server in trouble, and its errors in
//! words.

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as Task, Poll};
use std::time::{Duration, Instant};

use anyhow::Context;
use http::header::RETRY_AFTER;
use http::{Request, Response};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Client, Config};
use tower::{Layer, Service};

use super::token::Token;
use crate::clock;

/// A watch is begun at most so often: a server, or something before it, may end each at once.
const BETWEEN_WATCHES: Duration = Duration::from_secs(1);
/// The longest that a server may ask to be left alone.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an answer may take to begin: a server gives up after a minute itself.
const ANSWER: Duration = Duration::from_secs(75);
/// And how long nothing may come once it has begun: longer than a watch lasts, in which nothing may happen.
const SILENCE: Duration = Duration::from_secs(330);

/// A client of the server that `kubeconfig` leads to, or of the cluster that this runs in, and that server's address. To be called
/// on the runtime that it is for.
///
/// # Errors
/// The configuration can't be used.
pub(super) async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<(Client, String)> {
    let place = kubeconfig.map_or("--in-cluster".into(), |path| path.display().to_string());
    let config = match kubeconfig {
        None => Config::incluster()
            .map_err(|error| told(&error))
            .map_err(anyhow::Error::msg)
            .context("this is no Pod of a cluster"),
        Some(path) => from_file(path).await,
    };
    let mut config = config.with_context(|| place.clone())?;
    // Its own retries say nothing, for minutes.
    config.default_retry = false;
    (config.read_timeout, config.reset_reader_on_write) = (Some(SILENCE), true);
    let server = config.cluster_url.to_string();
    // As kubectl has it: what is in the file goes before what is in the kubeconfig.
    let token_file = config.auth_info.token_file.take();
    let token = Token::of(token_file.as_deref().map(Path::new)).with_context(|| place.clone())?;
    if token_file.is_some() {
        config.auth_info.token = None;
    }
    let builder = ClientBuilder::try_from(config);
    let builder = builder.map_err(|error| anyhow::anyhow!("{place}: {}", told(&error)))?;
    Ok((builder.with_layer(&Pace::new(ANSWER)).with_layer(&token).build(), server))
}

async fn from_file(path: &Path) -> anyhow::Result<Config> {
    let read = Kubeconfig::read_from(path).map_err(|error| anyhow::Error::msg(told(&error)))?;
    let current = read.current_context.as_deref().filter(|name| !name.is_empty());
    let current = current.context("it has no current-context: choose one by `kubectl config use-context`")?;
    let known = || read.contexts.iter().map(|context| context.name.as_str()).collect::<Vec<_>>().join(", ");
    let context = read.contexts.iter().find(|context| context.name == current).and_then(|named| named.context.as_ref());
    let context = context
        .with_context(|| format!("its current-context is {current:?}, which is none of its contexts: {}", known()))?;
    // Whose name is wrong would be nobody to the server.
    let user = context.user.as_deref().filter(|name| !name.is_empty());
    if let Some(user) = user.filter(|user| !read.auth_infos.iter().any(|one| one.name == **user)) {
        anyhow::bail!("the user of its context {current:?} is {user:?}, which is none of its users");
    }
    let config = Config::from_custom_kubeconfig(read.clone(), &KubeConfigOptions::default()).await;
    let config = config.map_err(|error| anyhow::Error::msg(told(&error)))?;
    if config.root_cert.as_ref().is_some_and(Vec::is_empty) {
        anyhow::bail!("its certificate-authority holds no certificate in PEM");
    }
    Ok(config)
}

/// An error and its causes, each said once: most say their causes themselves.
fn told(error: &dyn std::error::Error) -> String {
    let mut all: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !all.iter().any(|before| before.ends_with(&text)) {
            all.push(text);
        }
        next = error.source();
    }
    all.join(": ")
}

/// What went wrong with a list or a watch.
pub(super) fn trouble(error: &watcher::Error) -> String {
    match answer(error) {
        // As an answer this is read what is none: an event that is no object of its kind.
        Some(status) if status.code == 0 => "it sent what can't be read as an object of that kind".to_owned(),
        Some(status) => {
            let reason = [" ", &status.reason].concat();
            format!("it answers {}{}: {}", status.code, reason.trim_end(), status.message.trim())
        }
        None => told(error),
    }
}

/// The server's own words about it, if it is they that are the trouble.
fn answer(error: &watcher::Error) -> Option<&kube::core::Status> {
    use kube::Error::Api;
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(Api(status))
        | WatchStartFailed(Api(status))
        | WatchFailed(Api(status))
        | WatchError(status) => Some(status),
        _ => None,
    }
}

/// Whether the server has no such kind of object.
pub(super) fn knows_none(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(_)) && answer(error).is_some_and(|status| status.code == 404)
}

/// Whether the server can't go on from what was known: it has forgotten that, or, restored from a backup, never heard of it.
/// All is to be listed anew.
pub(super) fn has_forgotten(error: &watcher::Error) -> bool {
    let is_of_a_list = matches!(error, watcher::Error::InitialListFailed(_));
    let status = answer(error).filter(|_| !is_of_a_list);
    status.is_some_and(|status| status.code == 410 || status.message.contains(TOO_LARGE))
}

/// What a server says that never heard of a version (its reason is a cause of another, and older ones give none).
const TOO_LARGE: &str = "Too large resource version";

/// Whether a single event could not be read: the change that it told of is lost.
pub(super) fn is_unreadable(error: &watcher::Error) -> bool {
    let is_none = answer(error).is_some_and(|status| status.code == 0);
    is_none || matches!(error, watcher::Error::WatchFailed(kube::Error::SerdeError(_)))
}

/// How fast questions follow each other, and how long they may go without an answer.
#[derive(Clone)]
struct Pace {
    moments: Arc<Mutex<Moments>>,
    patience: Duration,
}

/// A question was not answered at all.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {} seconds", .0.as_secs_f64())]
struct Unanswered(Duration);

#[derive(Default)]
struct Moments {
    /// When the server may be asked again at the earliest, as it says.
    not_before: Option<Instant>,
    /// When the last watch of each path was to begin.
    watches: HashMap<String, Instant>,
}

impl Pace {
    fn new(patience: Duration) -> Self {
        Self { moments: Arc::default(), patience }
    }

    fn moments<T>(&self, act: impl FnOnce(&mut Moments) -> T) -> T {
        act(&mut self.moments.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// When a question that comes up `now` is to be asked.
    fn turn(&self, now: Instant, uri: &http::Uri) -> Instant {
        self.moments(|moments| {
            let mut turn = moments.not_before.map_or(now, |earliest| earliest.max(now));
            if uri.query().is_some_and(|query| query.split('&').any(|part| part == "watch=true")) {
                let last = moments.watches.get(uri.path());
                turn = last.map_or(turn, |last| turn.max(*last + BETWEEN_WATCHES));
                moments.watches.insert(uri.path().to_owned(), turn);
            }
            turn
        })
    }

    /// Takes note of what the server asks for (RFC 9110 §10.2.3; in seconds, as Kubernetes does).
    fn heed<B>(&self, now: Instant, response: &Response<B>) {
        let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(wait) = seconds.map(Duration::from_secs) {
            self.moments(|moments| moments.not_before = Some(now + wait.min(PATIENCE)));
        }
    }
}

impl<S> Layer<S> for Pace {
    type Service = Paced<S>;

    fn layer(&self, inner: S) -> Paced<S> {
        Paced { inner, pace: self.clone() }
    }
}

/// A service that is asked at this pace.
struct Paced<S> {
    inner: S,
    pace: Pace,
}

impl<S, A, B> Service<Request<A>> for Paced<S>
where
    S: Service<Request<A>, Response = Response<B>, Error: From<Unanswered>>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, task: &mut Task<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let (pace, now) = (self.pace.clone(), clock::now());
        let wait = pace.turn(now, request.uri()).saturating_duration_since(now);
        let answered = self.inner.call(request);
        Box::pin(async move {
            tokio::time::sleep(wait).await;
            let response = tokio::time::timeout(pace.patience, answered).await;
            let response = response.unwrap_or_else(|_| Err(Unanswered(pace.patience).into()))?;
            pace.heed(clock::now(), &response);
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_in_trouble_is_left_alone_as_long_as_it_asks() {
        let (pace, start) = (Pace::new(ANSWER), clock::now());
        let seconds = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let asks = |wait: &str| Response::builder().header(RETRY_AFTER, wait).body(()).expect("a response");
        let list = "/api/v1/services?limit=500".parse().expect("a path");
        let watch = "/api/v1/services?watch=true".parse().expect("a path");
        let other = "/api/v1/nodes?watch=true&x=1".parse().expect("a path");
        assert_eq!(pace.turn(start, &list), start);
        assert_eq!(pace.turn(start, &watch), start);
        assert_eq!(pace.turn(seconds(0.1), &watch), seconds(1.0), "a watch that ended at once");
        assert_eq!(pace.turn(seconds(0.2), &other), seconds(0.2), "another kind's");
        assert_eq!(pace.turn(seconds(300.0), &watch), seconds(300.0), "one that lasted");
        for (asked, expected) in [("2", 302.0), ("3600", 360.0), ("Fri, 31 Dec 1999 23:59:59 GMT", 360.0)] {
            pace.heed(seconds(300.0), &asks(asked));
            assert_eq!(pace.turn(seconds(300.0), &list), seconds(expected), "{asked}");
        }
        assert_eq!(pace.turn(seconds(400.0), &list), seconds(400.0));
    }

    /// Never answers.
    struct Mute;

    impl Service<Request<()>> for Mute {
        type Response = Response<()>;
        type Error = Box<dyn std::error::Error + Send + Sync>;
        type Future = std::future::Pending<Result<Response<()>, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            std::future::pending()
        }
    }

    #[test]
    fn a_server_that_never_answers_is_told() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let mut service = Pace::new(Duration::from_millis(10)).layer(Mute);
        let answered = runtime.block_on(async { service.call(Request::new(())).await.map(drop) });
        assert_eq!(answered.expect_err("no answer").to_string(), "no answer within 0.01 seconds");
    }

    #[test]
    fn a_cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{text}")]
        struct Link {
            text: &'static str,
            source: Option<Box<Link>>,
        }
        let chain = |texts: &[&'static str]| {
            let all = texts.iter().rev().fold(None, |source, text| Some(Box::new(Link { text, source })));
            told(&*all.expect("one at least"))
        };
        assert_eq!(chain(&["a list: no answer", "no answer", "refused"]), "a list: no answer: refused");
        assert_eq!(chain(&["alone"]), "alone");
    }
}
