//! testssl against a gateway's HTTPS port: no finding may be above low severity.
//!
//! `make test` checks versions, suites and renegotiation; a soak runs all checks.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;
use weft_testkit::pki::{Pki, ServerKey};

use super::ports;
use super::support::*;
use super::{among_others, soaks, tools};

const SHORT: &[&str] = &["-p", "-s", "-R", "-I", "-H"];
/// Each cipher on its own and known vulnerabilities, besides the default checks.
const WHOLE: &[&str] = &["-9"];
const SHORT_LIMIT: Duration = Duration::from_secs(120);
const WHOLE_LIMIT: Duration = Duration::from_secs(1_200);

/// Severities that do not fail the test.
const ACCEPTED_SEVERITIES: [&str; 4] = ["OK", "INFO", "LOW", "DEBUG"];
/// Findings that are no weakness of a gateway, with the reason.
const EXPECTED: [(&str, &str); 6] = [
    (
        "cipher_order",
        "clients choose, as all suites are strong and their speed depends on the client",
    ),
    ("cert_revocation", "the test's CA has neither CRLs nor OCSP"),
    (
        "cert_expirationStatus",
        "the test's certificate is valid for a day",
    ),
    ("cert_notAfter", "the same"),
    ("security_headers", "set by applications"),
    ("DNS_CAArecord", "of localhost"),
];

struct Finding {
    id: String,
    severity: String,
    message: String,
}

fn findings(report: &str) -> Vec<Finding> {
    let report: Value =
        serde_json::from_str(report).unwrap_or_else(|error| panic!("{error}: {report}"));
    let text =
        |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    let all = report.as_array().expect("a list of findings");
    let read = |finding| Finding {
        id: text(finding, "id"),
        severity: text(finding, "severity"),
        message: text(finding, "finding"),
    };
    all.iter().map(read).collect()
}

async fn scan(key: ServerKey, name: &str) {
    let pki = Pki::new().unwrap();
    let app = ports::application(Version::Http1).await;
    let port = ports::gateway_https(app, &pki, key);
    let (root, report) = (
        tools::file(&format!("{name}.pem")),
        tools::file(&format!("{name}.json")),
    );
    std::fs::write(&root, pki.root_pem()).unwrap();
    // testssl does not overwrite a report.
    if Path::new(&report).exists() {
        std::fs::remove_file(&report).unwrap();
    }
    let url = format!("https://localhost:{}", port.address.port());
    let (what, limit) = match soaks() {
        true => (WHOLE, WHOLE_LIMIT),
        false => (SHORT, SHORT_LIMIT),
    };
    let mut arguments = what.to_vec();
    arguments.extend([
        "--quiet",
        "--color",
        "0",
        "--warnings",
        "batch",
        "--nodns",
        "none",
    ]);
    // The system's OpenSSL, as Debian does not package testssl's own. It need not have the GOST
    // engine, without which testssl warns about itself.
    let environment = [("NO_ENGINE", "true")];
    arguments.extend(["--openssl", "/usr/bin/openssl", "--ip", "127.0.0.1"]);
    arguments.extend(["--add-ca", &root, "--jsonfile", &report, &url]);
    let output = tools::file(&format!("{name}.txt"));
    let Some(mut child) = tools::start("testssl", &arguments, &environment, &output) else {
        return;
    };
    let ended = timeout(limit, child.wait()).await;
    let said = std::fs::read_to_string(&output).unwrap();
    assert!(
        ended.is_ok(),
        "{name} has not ended within {limit:?}: {said}"
    );
    let findings = findings(&std::fs::read_to_string(&report).expect(&said));
    let offers = |id: &str| {
        findings
            .iter()
            .any(|of| of.id == id && of.message.starts_with("offered"))
    };
    assert!(
        offers("TLS1_2") && offers("TLS1_3"),
        "{name} reached no gateway: {said}"
    );
    let severe = findings.iter().filter(|of| {
        !ACCEPTED_SEVERITIES.contains(&of.severity.as_str())
            && EXPECTED.iter().all(|(id, _)| of.id != *id)
    });
    let severe: Vec<_> = severe
        .map(|of| format!("{}: {}: {}", of.severity, of.id, of.message))
        .collect();
    assert!(severe.is_empty(), "{name}: {severe:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn testssl_finds_no_risk_on_gateway() {
    let _others = among_others().await;
    tokio::join!(
        scan(ServerKey::Ecdsa, "testssl-ecdsa"),
        scan(ServerKey::Rsa, "testssl-rsa")
    );
}
