//! The cost of a request's token: of one that was verified before, and of one that was not.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use http::Request;
use http::request::Parts;
use weft_ir::{Authentication, JwtProvider, TokenAlgorithm, TokenLocation};
use weft_proxy::authentication::{Authenticator, Authenticators};
use weft_testkit::tokens::Signer;

/// Measurements, of which the least counts: what else the machine does only adds to it.
const ROUNDS: usize = 5;
const ISSUER: &str = "https://issuer.example";

#[derive(Args)]
pub(crate) struct Options {
    /// Requests with a token that is known.
    #[arg(long, default_value_t = 200_000)]
    requests: u32,
    /// Tokens that are not known.
    #[arg(long, default_value_t = 1_000)]
    tokens: u32,
}

/// Prints a row for each algorithm.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    for algorithm in [
        TokenAlgorithm::Rs256,
        TokenAlgorithm::Es256,
        TokenAlgorithm::EdDsa,
    ] {
        let signer = Signer::new(algorithm, "key")?;
        let tokens: Vec<Parts> = (0..options.tokens.max(1))
            .map(|number| request(&signer, algorithm, number))
            .collect::<anyhow::Result<_>>()?;
        let first = tokens.first().context("no token")?;
        let known = (0..ROUNDS)
            .map(|_| of_known(&authenticator(&signer), first, options.requests.max(1)))
            .fold(f64::INFINITY, f64::min);
        let new = (0..ROUNDS)
            .map(|_| of_new(&authenticator(&signer), &tokens))
            .fold(f64::INFINITY, f64::min);
        println!(
            "{:>6}: {known:>8.0} ns a request whose token is known, {new:>8.0} ns one whose is new",
            algorithm.as_str()
        );
    }
    Ok(())
}

/// Returns the nanoseconds of a request with the token.
fn of_known(authenticator: &Authenticator, head: &Parts, requests: u32) -> f64 {
    let mut head = head.clone();
    let begun = Instant::now();
    for _ in 0..requests {
        let _ = black_box(authenticator.authenticate(black_box(&mut head)));
    }
    begun.elapsed().as_nanos() as f64 / f64::from(requests)
}

fn of_new(authenticator: &Authenticator, heads: &[Parts]) -> f64 {
    let mut heads = heads.to_vec();
    let begun = Instant::now();
    for head in &mut heads {
        let _ = black_box(authenticator.authenticate(head));
    }
    begun.elapsed().as_nanos() as f64 / heads.len() as f64
}

fn authenticator(signer: &Signer) -> Arc<Authenticator> {
    let provider = JwtProvider {
        name: "main".to_owned(),
        issuer: ISSUER.to_owned(),
        audiences: vec!["bench".to_owned()],
        keys: vec![signer.key()],
        locations: vec![TokenLocation::Header {
            name: http::header::AUTHORIZATION,
            prefix: "Bearer ".to_owned(),
        }],
        claim_headers: Vec::new(),
        forward: true,
        clock_skew: 60,
    };
    Authenticators::default().get(&Arc::new(Authentication {
        required: true,
        providers: vec![provider],
    }))
}

fn request(signer: &Signer, algorithm: TokenAlgorithm, number: u32) -> anyhow::Result<Parts> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let claims = serde_json::json!({
        "iss": ISSUER, "aud": "bench", "sub": format!("user-{number}"), "exp": now + 3600,
        "scope": "a".repeat(300),
    });
    let token = signer.token(algorithm, &claims)?;
    let request = Request::get("/").header("authorization", format!("Bearer {token}"));
    Ok(request.body(())?.into_parts().0)
}
