//! Why the API server refuses.

use crate::k8s::Problems;

/// A request that changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 409: there is one of that name.
    #[error("{kind} {key} already exists; update it, or delete it first")]
    AlreadyExists {
        /// The kind of object.
        kind: &'static str,
        /// Its namespace and name.
        key: String,
    },
    /// 404: there is none of that name.
    #[error("{kind} {key} not found; create it first")]
    NotFound {
        /// The kind of object.
        kind: &'static str,
        /// Its namespace and name.
        key: String,
    },
    /// 409: it was changed since it was read.
    #[error("{kind} {key} was read at resource version {read} and is at {stored} now; read it again")]
    Conflict {
        /// The kind of object.
        kind: &'static str,
        /// Its namespace and name.
        key: String,
        /// The version that the request is based on.
        read: String,
        /// The version that is stored.
        stored: String,
    },
    /// 422: some fields are not as they may be.
    #[error("{0}")]
    Invalid(#[from] Problems),
}
