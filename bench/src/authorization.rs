//! The cost of a decision on who may call, by the number of policies of the pod.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use http::{HeaderMap, Method, Uri};
use weft_ir::{
    Authorization, AuthorizationAction, AuthorizationPolicy, AuthorizationRule, Authorizer,
    Identity, PathMatch, Peer, PolicyEffect, PolicyId, RequestMatch, SourceMatch, TrustDomain,
};

/// Measurements, of which the least counts: what else the machine does only adds to it.
const ROUNDS: usize = 5;
/// The port of the pod.
const PORT: u16 = 8080;

#[derive(Args)]
pub(crate) struct Options {
    /// Numbers of policies to measure.
    #[arg(long, value_delimiter = ',', default_value = "10,1000")]
    policies: Vec<u32>,
    /// Decisions for each number of policies.
    #[arg(long, default_value_t = 2_000_000)]
    decisions: u32,
}

/// Prints a row for each number of policies. Each policy allows one client one method below one
/// path; the client of the measured connection is one of theirs.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let mut least = None;
    for &count in &options.policies {
        let (connection, request) = measure(count.max(1), options.decisions.max(1))?;
        let least = *least.get_or_insert(request);
        println!(
            "{count:>6} policies: {request:>7.1} ns a request, {:.2} times the first row; \
             {connection:>9.0} ns a connection",
            request / least
        );
    }
    Ok(())
}

/// Returns the nanoseconds of a connection's decision, and of a request's.
fn measure(count: u32, decisions: u32) -> anyhow::Result<(f64, f64)> {
    let policies = (0..count).map(policy).collect::<anyhow::Result<_>>()?;
    let authorizer = Arc::new(Authorizer::new(Authorization {
        policies,
        ..Authorization::default()
    }));
    let client = identity(count / 2)?;
    let peer = Peer {
        identity: Some(&client),
        address: IpAddr::from([10, 0, 0, 9]),
    };
    let connections = decisions.div_ceil(1_000);
    let begun = Instant::now();
    for _ in 0..connections {
        black_box(authorizer.connection(black_box(peer), PORT));
    }
    let of_connection = begun.elapsed().as_nanos() as f64 / f64::from(connections);
    let connection = authorizer.connection(peer, PORT);
    let uri: Uri = "/team/service/items/17?page=2".parse()?;
    let headers = HeaderMap::new();
    let round = || {
        let begun = Instant::now();
        for _ in 0..decisions {
            let decision = connection.request(&Method::GET, black_box(&uri), &headers, &[], |_| {});
            black_box(decision);
        }
        begun.elapsed().as_nanos() as f64 / f64::from(decisions)
    };
    let of_request = (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min);
    Ok((of_connection, of_request))
}

fn policy(n: u32) -> anyhow::Result<Arc<AuthorizationPolicy>> {
    let request = RequestMatch {
        method: Some(Method::GET),
        path: Some(PathMatch::Prefix("/team/service".to_owned())),
        ..RequestMatch::default()
    };
    let rule = AuthorizationRule {
        sources: Some(vec![SourceMatch::Identity(identity(n)?)]),
        requests: vec![request],
        ..AuthorizationRule::default()
    };
    Ok(Arc::new(AuthorizationPolicy {
        id: PolicyId {
            namespace: Some("bench".into()),
            name: format!("client-{n}").into(),
            kind: weft_ir::PolicyKind::Authorization,
        },
        ports: Vec::new(),
        effect: PolicyEffect::Rules(AuthorizationAction::Allow, vec![rule]),
    }))
}

fn identity(n: u32) -> anyhow::Result<Identity> {
    let domain = TrustDomain::new("cluster.local")?;
    Ok(Identity::new(domain, "bench", &format!("client-{n}"))?)
}
