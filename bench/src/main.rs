//! The benchmark: the same work through pairs of proxies, in network namespaces of its own.
//!
//! `weft-bench run` measures; it starts the two ends, `weft-bench client` and `weft-bench server`,
//! itself. `bench/run` prepares the namespaces and the programs. `hold`, `see`, `create` and `edit`
//! are for `bench/footprint`, which measures on a cluster. This crate only measures and prints.

mod authentication;
mod authorization;
mod balancing;
mod footprint;
mod load;
mod netns;
mod process;
mod report;
mod rules;
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
    /// Measure every subject; needs root and the namespaces that bench/run creates.
    Run(run::Options),
    /// Send requests and print the results as JSON.
    Client(load::Options),
    /// Open connections and keep them open.
    Hold(footprint::HoldOptions),
    /// Print which edit of a route responses come from.
    See(footprint::SeeOptions),
    /// Create the objects on standard input, one per line.
    Create(footprint::CreateOptions),
    /// Edit a route and measure the time until it takes effect.
    Edit(footprint::EditOptions),
    /// Measure the lookup of a rule among 10, 1,000 and 5,000.
    Rules(rules::Options),
    /// Measure a decision by 10 and by 1,000 authorization policies.
    Authorization(authorization::Options),
    /// Measure a request with a token, known and new.
    Authentication(authentication::Options),
    /// Measure a pick by each algorithm among 10, 100 and 1,000 endpoints.
    Balancing(balancing::Options),
    /// Answer every request with 1 KiB.
    Server(server::Options),
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match Options::parse().command {
        Command::Run(options) => runtime.block_on(run::run(options)),
        Command::Hold(options) => runtime.block_on(footprint::hold(options)),
        Command::See(options) => runtime.block_on(footprint::see(options)),
        Command::Create(options) => runtime.block_on(footprint::create(options)),
        Command::Edit(options) => runtime.block_on(footprint::edit(options)),
        Command::Client(options) => runtime.block_on(load::run(options)),
        Command::Rules(options) => {
            rules::run(&options);
            Ok(())
        }
        Command::Authorization(options) => authorization::run(&options),
        Command::Authentication(options) => authentication::run(&options),
        Command::Balancing(options) => balancing::run(&options),
        Command::Server(options) => runtime.block_on(server::run(options)),
    }
}
