//! Kubernetes objects and settings, read and turned into what the engine's control plane takes.
//!
//! ```text
//! files --manifest--> objects --check, defaults, allocate, endpoint_controller--> as Kubernetes has them
//!       --service, endpoints, node--> lb_core::control::{Service, Slice, Node}
//! ```

pub mod address;
pub mod allocate;
pub mod check;
pub mod cluster;
pub mod config;
pub(crate) mod defaults;
pub mod endpoint_controller;
pub mod endpoints;
mod kinds;
pub mod lint;
pub mod manifest;
pub mod node;
pub mod place;
pub mod service;
pub mod settings;
mod surprise;
mod topology;
pub mod tree;

pub use allocate::Ranges;
pub use cluster::{Cluster, Taken};
pub use manifest::{Manifests, Placed};
pub use node::NodeError;
pub use place::{Place, Problem, Problems};
pub use settings::Settings;
pub use tree::Document;
