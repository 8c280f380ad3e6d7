//! Shows an installed Weft with the sample shop: deploys it, routes its traffic, shifts weights
//! during requests, and prints from the proxies' access logs which rule sent which requests where.
//!
//! It only runs kubectl, and prints every command, so that users can repeat them. It installs
//! neither a cluster nor Weft.

mod kubectl;
mod logs;
mod shop;
mod table;

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Context;

use crate::kubectl::{Kubectl, say};
use crate::logs::{Cursor, Entry};
use crate::shop::Shop;

fn main() -> ExitCode {
    let kubectl = Kubectl::find();
    let shop = Shop::new(&kubectl);
    match demo(&shop) {
        Ok(()) => {
            next();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}\n");
            shop.diagnose();
            ExitCode::FAILURE
        }
    }
}

fn demo(shop: &Shop<'_>) -> anyhow::Result<()> {
    say("Is Weft installed?");
    shop.weft_is_ready()?;
    say("The shop, in a namespace with the label weft.dev/inject: enabled");
    shop.deploy()?;
    say("Routes: weights, a header, a path rewrite, gRPC methods");
    shop.apply_routes()?;
    shop.wait_in_force()?;

    say("Traffic: nine of ten requests that no other rule takes go to v1");
    let mut cursor = Cursor::default();
    shop.kubectl.read_new(&mut cursor)?;
    let sent = [
        shop.load(
            "http://frontend/",
            &["--count", "200", "--concurrency", "4"],
        )?,
        shop.load(
            "http://reviews/reviews/1",
            &["--count", "40", "-H", "x-version: v3"],
        )?,
        shop.load("http://reviews/api/reviews/1", &["--count", "40"])?,
        shop.load("http://reviews:9000", &["--count", "40", "--grpc", "watch"])?,
    ];
    let failed: u64 = sent.iter().map(|load| load.failed).sum();
    let entries = collect(shop, &mut cursor, sent.iter().map(|load| load.sent).sum())?;
    show(shop, &entries, failed)?;
    check_share(shop, &entries, "reviews-v2", 0.0..0.25)?;

    say("The same rule at 10/90, patched while requests run");
    let running = shop.start_load(
        "http://frontend/",
        &["--rate", "50", "--seconds", "12", "--count", "100000"],
    )?;
    thread::sleep(Duration::from_secs(3));
    shop.shift_weights(10, 90)?;
    // The controller has accepted it; requests that are already routed may still be in flight.
    thread::sleep(Duration::from_secs(1));
    shop.kubectl.read_new(&mut cursor)?;
    let load = running.finish()?;
    let entries = collect(shop, &mut cursor, 1)?;
    println!(
        "\nFrom the moment the new weights were accepted ({} requests in the whole run):",
        load.sent
    );
    show(shop, &entries, load.failed)?;
    check_share(shop, &entries, "reviews-v2", 0.75..1.01)
}

/// Reads the access logs until the shopper's proxy has logged every request that it sent.
fn collect(shop: &Shop<'_>, cursor: &mut Cursor, sent: u64) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for _ in 0..20 {
        entries.extend(shop.kubectl.read_new(cursor)?);
        let written = entries
            .iter()
            .filter(|entry| entry.outbound && entry.pod.starts_with("shopper-"));
        if written.count() as u64 >= sent {
            // Proxies further down the chain logged them before the response arrived; one more read
            // returns the rest.
            thread::sleep(Duration::from_millis(500));
            entries.extend(shop.kubectl.read_new(cursor)?);
            return Ok(entries);
        }
        thread::sleep(Duration::from_millis(500));
    }
    anyhow::bail!(
        "the shopper sent {sent} requests, but its proxy logged fewer: is the namespace annotated with \
         weft.dev/access-log: all, and is traffic redirected to weft-proxy?"
    )
}

/// Prints both tables; fails if a request failed or was sent without mutual TLS.
fn show(shop: &Shop<'_>, entries: &[Entry], failed: u64) -> anyhow::Result<()> {
    let pods = shop.pods().context("which version runs at which address")?;
    print!("\n{}", table::outbound(entries, &pods));
    print!("\n{}", table::inbound(entries, &pods));
    println!("\nFailed requests: {failed}");
    let broken = entries.iter().filter(|entry| entry.failed()).count();
    anyhow::ensure!(
        failed == 0,
        "{failed} requests failed; see weft-error in the proxies' logs"
    );
    anyhow::ensure!(broken == 0, "the proxies logged {broken} failed requests");
    let plain = entries
        .iter()
        .filter(|entry| entry.to_a_pod_in_plain_text())
        .count();
    anyhow::ensure!(plain == 0, "{plain} requests travelled without mutual TLS");
    Ok(())
}

/// Fails unless the backend got its share of the weighted rule's requests.
fn check_share(
    shop: &Shop<'_>,
    entries: &[Entry],
    backend: &str,
    bounds: std::ops::Range<f64>,
) -> anyhow::Result<()> {
    let pods = shop.pods()?;
    let (mut all, mut to_backend) = (0_u32, 0_u32);
    for entry in entries
        .iter()
        .filter(|entry| entry.outbound && entry.is_rule("split", 0))
    {
        all += 1;
        to_backend += u32::from(table::place(entry, &pods).starts_with(backend));
    }
    anyhow::ensure!(
        all > 0,
        "no request met the rule `split` of the HTTPRoute shop/reviews"
    );
    let share = f64::from(to_backend) / f64::from(all);
    println!(
        "Share of {backend} under the rule `split`: {:.0} %",
        share * 100.0
    );
    anyhow::ensure!(
        bounds.contains(&share),
        "the share of {backend} should be between {:.0} and {:.0} %",
        bounds.start * 100.0,
        bounds.end.min(1.0) * 100.0
    );
    Ok(())
}

fn next() {
    println!(
        "
What to try next, with KUBECONFIG=.cluster/kubeconfig:
  kubectl -n shop edit httproute reviews            change a rule, and then send requests:
  kubectl -n shop exec deploy/shopper -c shopper -- weft-shop load --url http://reviews/reviews/1 --count 100 --keep 0
  kubectl -n shop logs deploy/shopper -c weft-proxy --tail 5
                                                    what the proxy made of each request
  kubectl -n shop get httproute reviews -o yaml     the status; name a Service that does not exist and look again
  kubectl -n weft-system rollout restart deployment weft-controller
                                                    traffic goes on
  examples/shop/README.md                           what each manifest shows
  make cluster-down                                 removes the cluster and every trace of it"
    );
}
