//! Modes as presets: what tells kube-proxy's proxiers apart, as data (SEMANTICS §14).

use crate::pick::Scheduler;

/// What tells one kube-proxy mode from another. The packet path knows none of these names; they are
/// compiled into the tables and flags it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// What it is called.
    pub name: &'static str,
    /// How it picks unless told otherwise (§7.5, §14.3).
    pub scheduler: Scheduler,
}

impl Mode {
    /// netfilter rules, kube-proxy's default on Linux (§14.1).
    pub const IPTABLES: Self = Self { name: "iptables", scheduler: Scheduler::Random };
    /// nftables maps (§14.2).
    pub const NFTABLES: Self = Self { name: "nftables", scheduler: Scheduler::Random };
    /// Every mode.
    pub const ALL: &'static [Self] = &[Self::IPTABLES, Self::NFTABLES];
}
