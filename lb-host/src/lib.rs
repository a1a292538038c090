//! The host side of Matryoshka: every module is an adapter between `lb-core` and a world outside it.
#![forbid(unsafe_code)]

pub mod chance;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod demo;
pub mod device;
pub mod dialled;
pub mod diff;
pub mod dns;
pub mod explain;
pub mod flow_log;
pub mod health;
pub mod host;
pub mod k8s;
pub mod listing;
pub mod metrics;
pub mod path;
pub mod proxy;
pub mod replay;
pub mod routing_test;
pub mod rules;
pub mod run;
pub mod table;
