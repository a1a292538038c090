//! A whole cluster in memory, on a virtual clock: what happens is a matter of what is given and of the seed.

pub mod api;
pub mod calendar;
pub mod cloud;
pub mod controllers;
pub mod kubectl;
pub mod kubelet;
mod streak;
