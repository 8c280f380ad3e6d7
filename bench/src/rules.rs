//! The cost of a rule lookup per request, by the number of rules of its host.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use http::{HeaderMap, Method, Uri};
use weft_ir::{PathMatch, RequestMatch, RouteId, RouteKind, RouteTable, Rule, Timeouts};

#[derive(Args)]
pub(crate) struct Options {
    /// Numbers of rules to measure.
    #[arg(long, value_delimiter = ',', default_value = "10,1000,5000")]
    rules: Vec<u32>,
    /// Lookups for each number of rules.
    #[arg(long, default_value_t = 2_000_000)]
    lookups: u32,
}

/// Prints a row for each number of rules. Every second rule has an exact path, the others a prefix;
/// the requests are distributed over all of them.
pub(crate) fn run(options: &Options) {
    let mut least = None;
    for &count in &options.rules {
        let nanoseconds = measure(count.max(1), options.lookups.max(1));
        let least = *least.get_or_insert(nanoseconds);
        println!(
            "{count:>6} rules: {nanoseconds:>7.1} ns a look-up, {:.2} times the first row",
            nanoseconds / least
        );
    }
}

fn measure(count: u32, lookups: u32) -> f64 {
    let table = RouteTable::new((0..count).map(|n| (Arc::new(rule(n)), n)).collect());
    // The same number of paths in every row, so that their own cost is the same.
    let paths: Vec<Uri> = (0..10_000_u32)
        .map(|n| request_path(n % count).parse().unwrap_or_default())
        .collect();
    let headers = HeaderMap::new();
    let begun = Instant::now();
    for path in paths.iter().cycle().take(lookups as usize) {
        black_box(table.find(&Method::GET, black_box(path), &headers));
    }
    begun.elapsed().as_nanos() as f64 / f64::from(lookups)
}

fn rule(n: u32) -> Rule {
    let path = match n % 2 {
        0 => PathMatch::Exact(request_path(n)),
        _ => PathMatch::Prefix(format!("/team-{}/service-{n}", n % 50)),
    };
    let condition = RequestMatch {
        path: Some(path),
        ..RequestMatch::default()
    };
    Rule {
        route: RouteId {
            kind: RouteKind::Http,
            namespace: "bench".into(),
            name: "rules".into(),
        },
        index: n,
        name: None,
        matches: vec![condition],
        filters: Vec::new(),
        backends: Vec::new(),
        timeouts: Timeouts::default(),
        retry: None,
        failure: None,
    }
}

fn request_path(n: u32) -> String {
    format!("/team-{}/service-{n}/items", n % 50)
}
