//! `weft-injector webhook` serves the mutating webhook; `weft-injector redirect` writes a pod's redirect rules.
//! This file only turns flags and environment into options.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use cli::{Cli, Verb};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_new(&cli.log).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .init();
    let result = match cli.verb {
        Verb::Redirect(args) => {
            let redirect = args.redirect();
            weft_injector::redirect::apply(&args.nft, &redirect)
                .map(|()| tracing::info!(?redirect, "the redirect rules are in place"))
                .map_err(anyhow::Error::from)
        }
        Verb::Webhook(args) => webhook(*args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn webhook(args: cli::WebhookArgs) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("ending");
            stop.cancel();
        }
    });
    weft_injector::webhook::run(args.options()?, stop).await
}
