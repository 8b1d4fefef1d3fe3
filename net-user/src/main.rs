//! The `netmoat` binary; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    net_user::cli::main()
}
