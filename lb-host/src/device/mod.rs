//! Where packets come from and go to.

pub mod capture;
pub mod link;
