//! `lb`: Kubernetes service routing explained, tested and replayed.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    lb_host::cli::main()
}
