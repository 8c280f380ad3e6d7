//! The cost of picking an endpoint, by the algorithm and the number of endpoints.

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use http::request::Parts;
use http::{HeaderName, Request};
use weft_ir::{Algorithm, BalancingMethod, ConsistentHash, HashKey, LoadFactor};
use weft_proxy::clock::Timestamp;
use weft_proxy::upstream::balance::{Balancing, Load};

/// Measurements, of which the least counts: what else the machine does only adds to it.
const ROUNDS: usize = 5;
/// When the picks are made, in nanoseconds.
const NOW: Timestamp = Timestamp::START;

#[derive(Args)]
pub(crate) struct Options {
    /// Numbers of endpoints to measure.
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000")]
    endpoints: Vec<u32>,
    /// Picks for each algorithm and number of endpoints.
    #[arg(long, default_value_t = 1_000_000)]
    picks: u32,
}

/// Prints a row for each algorithm: the nanoseconds of a pick by number of endpoints. All endpoints
/// are healthy, and have a request in flight. The last row is the time to make a ring, in
/// microseconds.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let rows = [
        ("PeakEwma", per_request(Algorithm::PeakEwma)),
        ("LeastRequest", per_request(Algorithm::LeastRequest)),
        ("RoundRobin", per_request(Algorithm::RoundRobin)),
        ("Random", per_request(Algorithm::Random)),
        ("ConsistentHash", by_header(None)),
        ("  loadFactorPercent: 125", by_header(LoadFactor::new(125))),
    ];
    print!("{:<26}", "endpoints");
    options
        .endpoints
        .iter()
        .for_each(|count| print!("{count:>10}"));
    println!();
    for (name, settings) in &rows {
        print!("{name:<26}");
        for &count in &options.endpoints {
            print!(
                "{:>10.1}",
                measure(settings, count.max(1), options.picks.max(1))?
            );
        }
        println!(" ns");
    }
    print!("{:<26}", "ring");
    for &count in &options.endpoints {
        let made = || {
            let begun = Instant::now();
            let ring = balancing(&by_header(None), count);
            let elapsed = begun.elapsed();
            black_box(ring);
            elapsed.as_secs_f64() * 1e6
        };
        print!(
            "{:>10.1}",
            (0..ROUNDS).map(|_| made()).fold(f64::INFINITY, f64::min)
        );
    }
    println!(" µs");
    Ok(())
}

fn per_request(algorithm: Algorithm) -> BalancingMethod {
    BalancingMethod::PerRequest {
        algorithm,
        slow_start: None,
    }
}

fn by_header(load_factor: Option<LoadFactor>) -> BalancingMethod {
    BalancingMethod::ConsistentHash(ConsistentHash {
        key: HashKey::Header(HeaderName::from_static("x-user")),
        load_factor,
    })
}

fn balancing(settings: &BalancingMethod, count: u32) -> Balancing {
    let address = |n: u32| SocketAddr::new(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), 80);
    let addresses: Vec<SocketAddr> = (0..count).map(address).collect();
    Balancing::new(Some(settings), &addresses, None, NOW)
}

/// Returns the nanoseconds of a pick, its key included.
fn measure(settings: &BalancingMethod, count: u32, picks: u32) -> anyhow::Result<f64> {
    let balancing = balancing(settings, count);
    let loads: Vec<Load> = (0..count).map(|_| Load::default()).collect();
    for load in &loads {
        load.observe(Duration::from_millis(1), NOW);
        load.begin();
    }
    let requests = (0..1_000)
        .map(request)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let random = &mut fastrand::Rng::with_seed(7);
    let mut round = || -> anyhow::Result<f64> {
        let begun = Instant::now();
        for pick in 0..picks {
            let head = &requests[pick as usize % requests.len()];
            let place = match balancing.by_key() {
                None => {
                    let load = |place: usize| Some(&loads[place]);
                    balancing.pick((0, loads.len()), NOW, random, load)
                }
                Some(by_key) => {
                    let key = by_key.of_request(head, None).key.context("no key")?;
                    by_key.pick(key, |_| true, |place| loads[place].active())
                }
            };
            black_box(place);
        }
        Ok(begun.elapsed().as_nanos() as f64 / f64::from(picks))
    };
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        least = least.min(round()?);
    }
    Ok(least)
}

fn request(n: u32) -> anyhow::Result<Parts> {
    let request = Request::get("/").header("x-user", format!("user-{n}"));
    Ok(request.body(())?.into_parts().0)
}
