//! Third-party attack tools: slowhttptest and testssl, as Debian packages them.
//!
//! Tools that are not installed are skipped, except with `WEFT_SERVERS=all`.

use std::process::Stdio;

use tokio::process::{Child, Command};

/// Starts a program with its output in a file and with variables added to its environment.
/// Returns `None` if it is not installed and not required.
pub fn start(
    program: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
    output: &str,
) -> Option<Child> {
    let output = std::fs::File::create(output).unwrap();
    let child = Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .kill_on_drop(true)
        .spawn();
    match child {
        Ok(child) => Some(child),
        Err(error) if std::env::var("WEFT_SERVERS").as_deref() == Ok("all") => {
            panic!("{program}: {error}")
        }
        Err(_) => {
            eprintln!("not installed: {program}");
            None
        }
    }
}

/// Returns the path of an output file.
pub fn file(name: &str) -> String {
    format!("{}/{name}", env!("CARGO_TARGET_TMPDIR"))
}
