//! The bench: the same work through pairs of proxies, in network namespaces of its own.
//!
//! `weft-bench run` measures; `weft-bench client` and `weft-bench server` are the two ends, which it starts itself.
//! `bench/run` prepares the namespaces and the programs. This crate measures and prints; it judges nothing.

mod load;
mod netns;
mod process;
mod report;
mod run;
mod server;
mod subjects;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures pairs of proxies at the same work")]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure every subject; needs root and the namespaces that bench/run makes.
    Run(run::Options),
    /// Send requests and print what came of them as JSON.
    Client(load::Options),
    /// Answer every request with 1 KiB.
    Server(server::Options),
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match Options::parse().command {
        Command::Run(options) => runtime.block_on(run::run(options)),
        Command::Client(options) => runtime.block_on(load::run(options)),
        Command::Server(options) => runtime.block_on(server::run(options)),
    }
}
