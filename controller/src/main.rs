//! `weft-controller`: `serve` configures proxies and signs their certificates, `provision` keeps
//! what Gateways run on.

use std::process::ExitCode;

use clap::Parser;
use weft_controller::options::{Command, Options};
use weft_controller::run;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let options = Options::parse();
    let process = options.command.process();
    weft_process::log::start(&process.log, process.log_format, std::io::stdout);
    weft_process::raise_file_limit();
    // Only one provider is compiled in; an error would say that it is installed already.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let ended = match options.command {
        Command::Serve(options) => run::serve(options).await,
        Command::Provision(options) => run::provision(options).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
