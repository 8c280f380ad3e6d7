//! `weft-injector webhook` serves the mutating webhook; `weft-injector redirect` installs a pod's
//! redirect rules.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use cli::{Cli, Verb};
use weft_injector::settings::LogFormat;

fn main() -> ExitCode {
    let cli = Cli::parse();
    weft_process::log::start(&cli.log, cli.log_format, std::io::stdout);
    let result = match cli.verb {
        Verb::Redirect(args) => {
            let redirect = args.redirect();
            weft_injector::redirect::apply(&args.nft, &redirect)
                .map(|()| tracing::info!(?redirect, "redirect rules installed"))
                .map_err(anyhow::Error::from)
        }
        Verb::Webhook(args) => webhook(*args, cli.log_format),
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
async fn webhook(args: cli::WebhookArgs, log_format: LogFormat) -> anyhow::Result<()> {
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
            tracing::info!("received a signal: stopping");
            stop.cancel();
        }
    });
    weft_injector::webhook::run(args.options(log_format)?, stop).await
}
