//! The binary: options, log, runtime; everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use weft_proxy::options::Options;

fn main() -> ExitCode {
    let mut options = Options::parse();
    // Standard output is the access log's.
    weft_process::log::start(&options.log, options.log_format, std::io::stderr);
    options.memory_limit = options.memory_limit.or_else(weft_process::memory_limit);
    weft_process::raise_file_limit();
    match start(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(options: Options) -> anyhow::Result<()> {
    // One worker needs no other threads to hand work to: no locks are fought for and no wake-up
    // crosses a core.
    let mut runtime = match options.workers {
        1 => tokio::runtime::Builder::new_current_thread(),
        workers => {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            runtime.worker_threads(workers.into());
            runtime
        }
    };
    let runtime = runtime.enable_all().build()?;
    let ended = runtime.block_on(weft_proxy::run::run(options));
    // A name lookup that hangs in the background does not keep the process.
    runtime.shutdown_background();
    ended
}
