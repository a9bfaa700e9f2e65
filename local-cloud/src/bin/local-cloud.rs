//! The local cloud without the rest of porter: what the tests of this crate start.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    local_cloud::entry::run(&args).unwrap_or_else(|| {
        eprintln!("error: this program is started by the local cloud; use `porter local`");
        ExitCode::from(2)
    })
}
