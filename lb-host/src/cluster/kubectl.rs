//! What `kubectl get` would print at a moment.

use lb_core::Instant;

use super::api::{Api, Kind};
use super::calendar::age;
use crate::k8s::Placed;
use crate::table::{self, Row};

/// The objects of a kind, of one namespace or of all, as a table; with the columns of `-o wide` if `wide`.
pub fn get<T: Row + Kind>(api: &Api, namespace: Option<&str>, wide: bool, now: Instant) -> String {
    let wanted = |name: &str| namespace.is_none_or(|namespace| !T::namespaced() || namespace == name);
    let objects: Vec<_> = api.list::<T>().map(AsRef::as_ref).filter(|object| wanted(object.namespace())).collect();
    if objects.is_empty() {
        return match namespace.filter(|_| T::namespaced()) {
            Some(namespace) => format!("No resources found in {namespace} namespace.\n"),
            None => "No resources found\n".to_owned(),
        };
    }
    show(&objects, T::namespaced() && namespace.is_none(), wide, now)
}

/// These objects as a table, with their namespaces if `namespaces`.
pub fn show<T: Row + Kind>(objects: &[&Placed<T>], namespaces: bool, wide: bool, now: Instant) -> String {
    let old = |object: &T| {
        let created = object.metadata().creation_timestamp.as_ref();
        created.map_or_else(|| table::UNKNOWN.to_owned(), |created| age(created, now))
    };
    let mut out = Vec::new();
    // Writing to memory does not fail, and what was written is text.
    let _ = table::write_objects(&mut out, wide, namespaces, objects, old);
    String::from_utf8_lossy(&out).into_owned()
}
