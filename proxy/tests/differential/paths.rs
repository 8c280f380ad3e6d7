//! Spellings of a path that policies protect: whatever a real server reads as `/admin` is denied,
//! both where a policy denies `/admin` and where one allows another path alone.
//!
//! Servers that are not installed are skipped, except with `WEFT_SERVERS=all`.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_api::encode;
use weft_ir::{
    Authorization, AuthorizationAction, AuthorizationPolicy, AuthorizationRule, Authorizations,
    PathMatch, PolicyEffect, PolicyId, RequestMatch,
};

use super::LIMIT;
use super::programs::{Server, each};
use super::support::Version;
use super::topology::{Front, Kind};

/// Each answers `admin` to what it reads as `/admin` or as something below it, and else `other`.
const SERVERS: [Server; 4] = [
    Server {
        name: "nginx-paths",
        program: "nginx",
        arguments: &["-p", "@DIR", "-e", "@DIR/errors", "-c", "@DIR/nginx.conf"],
        file: (
            "nginx.conf",
            r#"daemon off; master_process off; pid @DIR/pid; error_log @DIR/errors;
events { worker_connections 512; }
http {
  access_log off;
  client_body_temp_path @DIR/b; proxy_temp_path @DIR/p; fastcgi_temp_path @DIR/f; uwsgi_temp_path @DIR/u;
  scgi_temp_path @DIR/s;
  server {
    listen 127.0.0.1:@PORT;
    location / { return 200 other; }
    location = /admin { return 200 admin; }
    location /admin/ { return 200 admin; }
  }
}"#,
        ),
    },
    // As `http.server.SimpleHTTPRequestHandler` reads paths.
    Server {
        name: "Python-paths",
        program: "python3",
        arguments: &["-u", "@DIR/server.py"],
        file: (
            "server.py",
            r##"
import posixpath
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        path = self.path.split("?", 1)[0].split("#", 1)[0]
        path = posixpath.normpath(urllib.parse.unquote(path))
        segments = [segment for segment in path.split("/") if segment]
        body = b"admin" if segments[:1] == ["admin"] else b"other"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
ThreadingHTTPServer(("127.0.0.1", @PORT), Handler).serve_forever()
"##,
        ),
    },
    // By the URL standard, with and without escaped separators; and as static file servers do.
    Server {
        name: "Node-paths",
        program: "node",
        arguments: &["@DIR/server.js"],
        file: (
            "server.js",
            r#"
const { posix } = require("path");
const isAdmin = (path) => path.split("/").filter(Boolean)[0] === "admin";
const readings = [
  (target) => new URL(target, "http://app").pathname,
  (target) => decodeURIComponent(new URL(target, "http://app").pathname),
  (target) => posix.normalize(decodeURIComponent(new URL(target, "http://app").pathname)),
  (target) => posix.normalize(decodeURIComponent(target.split("?")[0])),
  (target) => posix.normalize(decodeURIComponent(target.split("?")[0]).replaceAll("\\", "/")),
  // Servlet containers cut parameters off each segment.
  (target) => posix.normalize(decodeURIComponent(target.split("?")[0].replace(/;[^\/]*/g, ""))),
];
require("http").createServer((request, answer) => {
  const read = readings.some((reading) => {
    try { return isAdmin(reading(request.url)); } catch { return false; }
  });
  answer.end(read ? "admin" : "other");
}).listen(@PORT, "127.0.0.1");
"#,
        ),
    },
    Server {
        name: "Go-paths",
        program: "go",
        arguments: &["run", "@DIR/server.go"],
        file: (
            "server.go",
            r#"package main

import (
	"io"
	"net/http"
	"path"
	"strings"
)

func main() {
	http.ListenAndServe("127.0.0.1:@PORT", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cleaned := path.Clean(r.URL.Path)
		if cleaned == "/admin" || strings.HasPrefix(cleaned, "/admin/") {
			io.WriteString(w, "admin")
		} else {
			io.WriteString(w, "other")
		}
	}))
}
"#,
        ),
    },
];

/// What may come before the name.
const BEFORE: [&str; 24] = [
    "/",
    "//",
    "///",
    "/./",
    "/%2e/",
    "/%2E/",
    "/../",
    "/x/../",
    "/x/%2e%2e/",
    "/x/.%2E/",
    "/x/y/../../",
    "/x//../",
    "/\\",
    "/x/..\\",
    "/%2f",
    "/%2F",
    "/x/..%2f",
    "/x%2f..%2f",
    "/x%2F%2e%2e%2F",
    "/%5c",
    "/x/..%5C",
    "/;/",
    "/;a=b/../",
    "/x;y/../",
];
const NAMES: [&str; 6] = [
    "admin",
    "%61dmin",
    "%61%64%6d%69%6e",
    "%61%64%6D%69%6E",
    "%2561dmin",
    "admin;a=b",
];
const AFTER: [&str; 8] = ["", "//", "/./x", "/x/..", "?x=1", "%2f", ";a", "/..;/admin"];
/// What no server reads so, and every policy of this test allows.
const HARMLESS: [&str; 6] = [
    "/public",
    "/public/",
    "/public//x",
    "/public/admin",
    "/public/%61dmin",
    "/x/../public?a=/admin",
];

fn spellings() -> impl Iterator<Item = String> {
    let names = |before| NAMES.iter().map(move |name| format!("{before}{name}"));
    let before = BEFORE.iter().flat_map(names);
    before.flat_map(|begin| AFTER.iter().map(move |after| format!("{begin}{after}")))
}

/// Sends a request line as it is; returns the whole response.
async fn ask(address: SocketAddr, target: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    let _ = timeout(LIMIT, stream.read_to_end(&mut all)).await;
    String::from_utf8_lossy(&all).into_owned()
}

/// Policies that protect `/admin`: one that denies it, and one that allows another path alone.
fn policies() -> [Authorization; 2] {
    let of = |action, path: &str| {
        let request = RequestMatch {
            path: Some(PathMatch::Prefix(path.to_owned())),
            ..RequestMatch::default()
        };
        let rule = AuthorizationRule {
            requests: vec![request],
            ..AuthorizationRule::default()
        };
        let policy = AuthorizationPolicy {
            id: PolicyId {
                namespace: Some("shop".into()),
                name: "paths".into(),
                kind: weft_ir::PolicyKind::Authorization,
            },
            ports: Vec::new(),
            effect: PolicyEffect::Rules(action, vec![rule]),
        };
        Authorization {
            policies: vec![Arc::new(policy)],
            ..Authorization::default()
        }
    };
    [
        of(AuthorizationAction::Deny, "/admin"),
        of(AuthorizationAction::Allow, "/public"),
    ]
}

fn enforce(front: &Front, policies: &Authorization) {
    let number = front.address.port();
    let of = encode::authorizations(&Authorizations {
        workload: policies.clone(),
        listeners: vec![((number, "any".to_owned()), policies.clone())],
        routes: Vec::new(),
    });
    match (&front.gateway, front.pods.first()) {
        (Some(gateway), _) => gateway.tell(vec![of]),
        (None, Some(server)) => server.tell(vec![of]),
        (None, None) => {}
    }
}

/// Returns the spellings that get through a proxy, and the harmless paths that do not.
async fn wrong(server: &Server, address: SocketAddr) -> Vec<String> {
    let mut read_as_admin = Vec::new();
    for spelling in spellings() {
        if ask(address, &spelling).await.contains("admin") {
            read_as_admin.push(spelling);
        }
    }
    let count = read_as_admin.len();
    assert!(count > 100, "{} reads {count} spellings", server.name);
    let mut wrong = Vec::new();
    for kind in [Kind::Inbound, Kind::Pair, Kind::Gateway] {
        let front = Front::start(kind, Version::Http1, Version::Http1, address);
        for (number, policies) in policies().iter().enumerate() {
            enforce(&front, policies);
            for spelling in &read_as_admin {
                let said = ask(front.address, spelling).await;
                let denied = said.starts_with("HTTP/1.1 403") || said.starts_with("HTTP/1.1 400");
                if !denied {
                    wrong.push(format!(
                        "{}, {kind:?}, {number}: {spelling}: {said}",
                        server.name
                    ));
                }
            }
            for path in HARMLESS {
                let said = ask(front.address, path).await;
                if !said.starts_with("HTTP/1.1 200") || !said.contains("other") {
                    wrong.push(format!(
                        "{}, {kind:?}, {number}: {path}: {said}",
                        server.name
                    ));
                }
            }
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_spelling_that_a_server_reads_as_denied_path_is_denied() {
    let all = each(&SERVERS, async |server, running| {
        wrong(server, running.address).await
    });
    let all = all.await;
    assert!(
        all.is_empty(),
        "{}: {}",
        all.len(),
        all[..all.len().min(20)].join("\n")
    );
}
