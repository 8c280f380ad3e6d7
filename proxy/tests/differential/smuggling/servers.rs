//! The same requests with real servers behind the proxy: each sees one request where the proxy
//! forwarded one, and none otherwise.
//!
//! The servers are Debian's packages. Those that are not installed are skipped, except with
//! `WEFT_SERVERS=all`.

use std::time::Instant;

use tokio::time::sleep;

use super::http1::{Made, REQUESTS, bytes};
use super::*;
use crate::programs::{Running, Server, each};

/// All log a line for each request, to the file `requests` or to standard output.
const SERVERS: [Server; 5] = [
    Server {
        name: "nginx",
        program: "nginx",
        arguments: &["-p", "@DIR", "-e", "@DIR/errors", "-c", "@DIR/nginx.conf"],
        file: (
            "nginx.conf",
            r#"daemon off; master_process off; pid @DIR/pid; error_log @DIR/errors;
events { worker_connections 512; }
http {
  log_format line '$request';
  access_log @DIR/requests line;
  client_body_temp_path @DIR/b; proxy_temp_path @DIR/p; fastcgi_temp_path @DIR/f; uwsgi_temp_path @DIR/u;
  scgi_temp_path @DIR/s;
  server { listen 127.0.0.1:@PORT; location / { return 200 ok; } }
}"#,
        ),
    },
    Server {
        name: "haproxy",
        program: "haproxy",
        arguments: &["-db", "-f", "@DIR/haproxy.cfg"],
        file: (
            "haproxy.cfg",
            r#"global
  log stdout format raw local0
defaults
  mode http
  log global
  log-format "%HM %HPO"
  timeout client 10s
  timeout server 10s
  timeout connect 10s
frontend all
  bind 127.0.0.1:@PORT
  http-request wait-for-body time 2s if { path / }
  http-request return status 200 content-type text/plain string ok
"#,
        ),
    },
    Server {
        name: "Python",
        program: "python3",
        arguments: &["-u", "@DIR/server.py"],
        file: (
            "server.py",
            r#"
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        print(self.requestline, flush=True)
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while True:
                size = int(self.rfile.readline().split(b";")[0], 16)
                self.rfile.read(size + 2)
                if size == 0:
                    break
        else:
            self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    do_GET = do_POST
    def log_message(self, *arguments):
        pass
ThreadingHTTPServer(("127.0.0.1", @PORT), Handler).serve_forever()
"#,
        ),
    },
    Server {
        name: "Node",
        program: "node",
        arguments: &["@DIR/server.js"],
        file: (
            "server.js",
            r#"
require("http").createServer((request, answer) => {
  console.log(request.method + " " + request.url);
  request.resume();
  request.on("end", () => answer.end("ok"));
}).listen(@PORT, "127.0.0.1");
"#,
        ),
    },
    Server {
        name: "Go",
        program: "go",
        arguments: &["run", "@DIR/server.go"],
        file: (
            "server.go",
            r#"package main

import (
	"fmt"
	"io"
	"net/http"
)

func main() {
	http.ListenAndServe("127.0.0.1:@PORT", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Method, r.URL.Path)
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "ok")
	}))
}
"#,
        ),
    },
];

/// Returns how many requests for `/asked` and for `/smuggled` were logged since the last call.
fn counted(server: &mut Running) -> (usize, usize) {
    let new = server.logged();
    (
        new.matches("/asked").count(),
        new.matches("/smuggled").count(),
    )
}

/// Sends every request through each proxy; returns the cases in which the server's count is wrong.
async fn disagreements(server: &Server, running: &mut Running) -> Vec<String> {
    let mut wrong = Vec::new();
    for kind in PROXIES {
        let front = Front::start(kind, Version::Http1, Version::Http1, running.address);
        for (name, rest, made) in REQUESTS {
            let said = answers(front.address, &bytes(rest)).await;
            let expected = usize::from(matches!(made, Made::Passed));
            let begun = Instant::now();
            let mut seen = counted(running);
            // Some servers log after the response.
            while seen.0 < expected && begun.elapsed() < LIMIT {
                sleep(Duration::from_millis(2)).await;
                let (asked, smuggled) = counted(running);
                seen = (seen.0 + asked, seen.1 + smuggled);
            }
            if seen != (expected, 0) || said.matches("HTTP/1.1 200").count() != expected {
                wrong.push(format!(
                    "{}, {kind:?}, {name} ({made:?}): counted {seen:?}, client {said:?}",
                    server.name
                ));
            }
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_see_same_request_count_as_proxy() {
    let wrong = each(&SERVERS, async |server, mut running| {
        disagreements(server, &mut running).await
    });
    let wrong = wrong.await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
