//! The sample shop: `frontend` calls `catalogue`, which calls `reviews` over HTTP and gRPC. `load`,
//! `talk` and `garbage` are the clients that the demo and the cluster tests run inside pods.
//!
//! The programs do not know the mesh: they send plain HTTP to names of Services.

mod catalogue;
mod client;
mod frontend;
mod garbage;
mod load;
mod retry;
mod reviews;
mod server;
mod tcp;

use clap::{Parser, Subcommand};

/// The messages of `proto/shop.proto`.
#[allow(unreachable_pub, clippy::all, clippy::unwrap_used)]
mod proto {
    tonic::include_proto!("shop");
}

#[derive(Parser)]
#[command(name = "weft-shop", version, about = "The sample shop of Weft")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves the shop's page; calls the catalogue.
    Frontend(frontend::Options),
    /// Serves products; calls the reviews over HTTP and gRPC.
    Catalogue(catalogue::Options),
    /// Serves reviews over HTTP and gRPC.
    Reviews(reviews::Options),
    /// Sends requests and prints a summary as JSON.
    Load(load::Options),
    /// Sends bytes over plain TCP and prints the response.
    Talk(tcp::TalkOptions),
    /// Sends garbage, and prints how the connections ended.
    Garbage(garbage::Options),
    /// Waits for SIGTERM: a pod to run the clients in.
    Idle,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Frontend(options) => frontend::run(options).await,
        Command::Catalogue(options) => catalogue::run(options).await,
        Command::Reviews(options) => reviews::run(options).await,
        Command::Load(options) => load::run(options).await,
        Command::Talk(options) => tcp::talk(options).await,
        Command::Garbage(options) => garbage::run(options).await,
        Command::Idle => {
            server::stopped().await;
            Ok(())
        }
    }
}
