//! Kubernetes objects and settings, read and turned into what the engine's control plane takes.

pub mod address;
mod kinds;
pub mod manifest;
pub mod place;
pub mod tree;

pub use manifest::{Manifests, Placed};
pub use place::{Place, Problem, Problems};
pub use tree::Document;
