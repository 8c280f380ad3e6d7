//! A run: every subject in turn for several rounds, so that drift of the machine affects all
//! subjects.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::{Child, Command};

use crate::load::Outcome;
use crate::netns::{self, Side};
use crate::process;
use crate::report::{self, Figures};
use crate::subjects::{self, Pair, Subject};

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Length of each saturated and each paced measurement.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Subjects to measure, of direct, weft, envoy, haproxy.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "direct,weft,envoy,haproxy"
    )]
    subjects: Vec<Subject>,
    #[arg(long, default_value = "target/bench/results.json")]
    output: PathBuf,
    #[command(flatten)]
    programs: subjects::Programs,
}

/// Rate of the paced measurement, and its number of connections.
const RATE: u32 = 1000;
const PACED_CONNECTIONS: u32 = 16;
const SERVER_PORT: u16 = 8080;

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let own = std::env::current_exe().context("finding this program's own path")?;
    let own = own.to_str().context("this program's path is not UTF-8")?;
    let _server = start_server(own)?;
    subjects::accepts(Side::Server.at(SERVER_PORT)).await?;
    let mut figures = Figures::default();
    for round in 1..=options.rounds {
        let mut direct = None;
        for &subject in &options.subjects {
            eprintln!("round {round} of {}: {}", options.rounds, subject.name());
            let outcome = measure(&options, own, subject, &mut figures)
                .await
                .with_context(|| format!("measuring {}", subject.name()))?;
            match (subject, &direct) {
                (Subject::Direct, _) => direct = Some(outcome),
                (_, Some(direct)) => {
                    figures.add(
                        "added p50 at 1000/s",
                        "us",
                        subject.name(),
                        outcome.p50 - direct.p50,
                    );
                    figures.add(
                        "added p99 at 1000/s",
                        "us",
                        subject.name(),
                        outcome.p99 - direct.p99,
                    );
                }
                (_, None) => {}
            }
        }
    }
    let names: Vec<_> = options
        .subjects
        .iter()
        .map(|subject| subject.name())
        .collect();
    report::publish(&figures.rows(&names), &options.output)
}

fn start_server(own: &str) -> anyhow::Result<Child> {
    netns::command(Side::Server, netns::ENDS, own)
        .args([
            "server",
            "--listen",
            &Side::Server.at(SERVER_PORT).to_string(),
        ])
        .spawn()
        .context("starting the server in its namespace")
}

/// Measures one subject in one round; returns the outcome at the fixed rate.
async fn measure(
    options: &Options,
    own: &str,
    subject: Subject,
    figures: &mut Figures,
) -> anyhow::Result<Outcome> {
    let pair = Pair::start(subject, &options.programs, Side::Server.at(SERVER_PORT)).await?;
    let name = subject.name();
    let client = |connections: u32, seconds: u64, rate: Option<u32>| {
        client(own, &pair, connections, seconds, rate)
    };

    client(1, 1, Some(100)).await.context("warming up")?;
    if !pair.processes().is_empty() {
        figures.add("resident, idle, each", "MiB", name, resident_each(&pair)?);
    }
    let before = cpu(&pair)?;
    let paced = client(PACED_CONNECTIONS, options.seconds, Some(RATE)).await?;
    let after = cpu(&pair)?;
    figures.add("p50 at 1000/s", "us", name, paced.p50);
    figures.add("p99 at 1000/s", "us", name, paced.p99);
    if !pair.processes().is_empty() {
        let spent = per_request(&before, &after, &paced);
        figures.add("cpu per request at 1000/s, both", "us", name, spent);
    }

    client(options.connections, 1, None).await?;
    let before = cpu(&pair)?;
    let full = client(options.connections, options.seconds, None).await?;
    let after = cpu(&pair)?;
    figures.add(
        "requests/s, saturated",
        "1/s",
        name,
        full.answered as f64 / full.seconds,
    );
    let sides = ["cpu per request, outbound", "cpu per request, inbound"];
    for (which, side) in sides.into_iter().zip(0..before.len()) {
        let spent = per_request(&before[side..=side], &after[side..=side], &full);
        figures.add(which, "us", name, spent);
    }
    if !pair.processes().is_empty() {
        let spent = per_request(&before, &after, &full);
        figures.add("cpu per request, both", "us", name, spent);
        figures.add(
            "resident, after load, each",
            "MiB",
            name,
            resident_each(&pair)?,
        );
    }
    pair.stop().await;
    Ok(paced)
}

fn cpu(pair: &Pair) -> anyhow::Result<Vec<Duration>> {
    pair.processes()
        .iter()
        .map(|pid| process::cpu(*pid))
        .collect()
}

/// Returns the CPU time per successful request, in microseconds.
fn per_request(before: &[Duration], after: &[Duration], outcome: &Outcome) -> f64 {
    let spent = after.iter().sum::<Duration>() - before.iter().sum::<Duration>();
    spent.as_secs_f64() * 1e6 / outcome.answered as f64
}

fn resident_each(pair: &Pair) -> anyhow::Result<f64> {
    let each: Vec<f64> = pair
        .processes()
        .iter()
        .map(|pid| process::resident(*pid))
        .collect::<Result<_, _>>()?;
    Ok(each.iter().sum::<f64>() / each.len() as f64)
}

/// Runs the client in its namespace. Fails if any request failed, because the measurement would be
/// meaningless.
async fn client(
    own: &str,
    pair: &Pair,
    connections: u32,
    seconds: u64,
    rate: Option<u32>,
) -> anyhow::Result<Outcome> {
    let mut command: Command = netns::command(Side::Client, netns::ENDS, own);
    command.args(["client", "--target", &pair.target().to_string()]);
    command.args([
        "--connections",
        &connections.to_string(),
        "--seconds",
        &seconds.to_string(),
    ]);
    if let Some(rate) = rate {
        command.args(["--rate", &rate.to_string()]);
    }
    let limit = Duration::from_secs(seconds + 10);
    let output = tokio::time::timeout(limit, command.stderr(Stdio::inherit()).output())
        .await
        .with_context(|| format!("the client did not end within {limit:?}"))??;
    let outcome: Outcome =
        serde_json::from_slice(&output.stdout).context("reading what the client printed")?;
    anyhow::ensure!(
        outcome.failed == 0 && outcome.answered > 0,
        "requests failed: {outcome:?}"
    );
    Ok(outcome)
}
