//! h2spec's test cases for RFC 7540 and RFC 7541, in strict mode, against each port that accepts
//! HTTP/2.
//!
//! Cases that fail must be listed in [`KNOWN`] with the reason, and listed cases must fail, so that
//! a fixed one is removed.

use std::collections::BTreeSet;
use std::process::Stdio;

use tokio::process::Command;
use tokio::sync::OnceCell;
use weft_testkit::pki::{Pki, ServerKey};

use super::among_others;
use super::ports::{self, Port};
use super::support::*;

/// A known failure: h2spec's name of the case, the ports where it fails, and why.
#[derive(Debug)]
struct Known {
    case: &'static str,
    ports: &'static [&'static str],
    #[allow(dead_code, reason = "printed with the rest")]
    why: &'static str,
}

/// The number of cases that h2spec has.
const CASES: usize = 146;

const KNOWN: &[Known] = &[Known {
    case: "http2/3.5/2",
    ports: &["gateway, HTTP"],
    why: "on a port of both versions, bytes without the preface (RFC 9113, 3.4) are malformed \
          HTTP/1.1, which is answered with 400 and closed (RFC 9112, 2.2)",
}];

/// The result of h2spec on one port.
#[derive(Debug, Default)]
struct Outcome {
    passed: BTreeSet<String>,
    /// Cases with h2spec's message.
    failed: Vec<(String, String)>,
    skipped: BTreeSet<String>,
}

/// Builds h2spec once; returns its path.
async fn program() -> &'static str {
    static PROGRAM: OnceCell<String> = OnceCell::const_new();
    let built = async {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/h2spec/build");
        let built = Command::new(script).output().await.unwrap();
        let message = String::from_utf8_lossy(&built.stderr);
        assert!(
            built.status.success(),
            "h2spec could not be built: {message}"
        );
        String::from_utf8(built.stdout).unwrap().trim().to_owned()
    };
    PROGRAM.get_or_init(|| built).await
}

async fn run(port: &Port, tls: bool) -> Outcome {
    let report = format!(
        "{}/h2spec-{}.xml",
        env!("CARGO_TARGET_TMPDIR"),
        port.address.port()
    );
    let mut command = Command::new(program().await);
    let number = port.address.port().to_string();
    command.args([
        "--strict",
        "--timeout",
        "1",
        "--port",
        &number,
        "--junit-report",
        &report,
    ]);
    if tls {
        command.args(["--tls", "--insecure"]);
    }
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let read = std::fs::read_to_string(&report);
    let said = String::from_utf8_lossy(&output.stdout);
    let report = read.unwrap_or_else(|_| panic!("{}: h2spec did not end: {said}", port.name));
    outcome(&report)
}

/// Parses a JUnit report. A case is named by its section and its index there, as h2spec's arguments
/// are.
fn outcome(report: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut section, mut place) = ("", 0);
    for case in report.split("<testcase ").skip(1) {
        let of = attribute(case, "package");
        place = if of == section { place + 1 } else { 1 };
        section = of;
        let name = format!("{section}/{place}");
        let body = case.split("</testcase>").next().unwrap_or_default();
        if body.contains("<failure>") || body.contains("<error>") {
            let message = format!("{}: {}", attribute(case, "classname"), text(body));
            outcome.failed.push((name, message));
        } else if body.contains("<skipped>") {
            outcome.skipped.insert(name);
        } else {
            outcome.passed.insert(name);
        }
    }
    outcome
}

fn attribute<'a>(element: &'a str, name: &str) -> &'a str {
    let start = element.split(&format!("{name}=\"")).nth(1);
    start
        .and_then(|rest| rest.split('"').next())
        .unwrap_or_default()
}

/// Returns the text content of nested elements.
fn text(body: &str) -> String {
    let parts = body
        .split('<')
        .skip(1)
        .filter_map(|part| part.split_once('>'));
    let texts: Vec<_> = parts
        .map(|(_, text)| text.trim().replace('\n', ", "))
        .collect();
    texts.join("")
}

/// Panics unless exactly the known cases failed.
fn check_outcome(port: &Port, outcome: &Outcome) {
    let of_port = || {
        KNOWN
            .iter()
            .filter(|known| known.ports.contains(&port.name))
    };
    let unexpected: Vec<_> = outcome
        .failed
        .iter()
        .filter(|(case, _)| !of_port().any(|known| known.case == case))
        .collect();
    let fixed: Vec<_> = of_port()
        .filter(|known| outcome.passed.contains(known.case))
        .collect();
    assert!(
        unexpected.is_empty() && fixed.is_empty() && outcome.skipped.is_empty(),
        "{}: {} cases passed; failed: {unexpected:#?}; listed and passed: {fixed:#?}; skipped: {:?}",
        port.name,
        outcome.passed.len(),
        outcome.skipped,
    );
    assert!(
        outcome.passed.len() + of_port().count() == CASES,
        "{}: {}",
        port.name,
        outcome.passed.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2spec_cases_pass_or_are_known_failures() {
    let _others = among_others().await;
    let http1 = ports::application(Version::Http1).await;
    let http2 = ports::application(Version::Http2).await;
    let http = ports::gateway_http(http1);
    let https = ports::gateway_https(http1, &Pki::new().unwrap(), ServerKey::Ecdsa);
    let plain = ports::inbound_plain(http2);
    let mesh = ports::inbound_mesh(http2).await;
    let outcomes = tokio::join!(
        run(&http, false),
        run(&https, true),
        run(&plain, false),
        run(&mesh, false)
    );
    for (port, outcome) in [
        (&http, outcomes.0),
        (&https, outcomes.1),
        (&plain, outcomes.2),
        (&mesh, outcomes.3),
    ] {
        check_outcome(port, &outcome);
    }
}
