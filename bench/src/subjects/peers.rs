//! Envoy and haproxy, configured like a pair of sidecars: HTTP/1.1 in, HTTP/2 over mutual TLS 1.3
//! between them, HTTP/1.1 out, one worker each, no access log.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use tokio::process::Child;

use super::{Programs, Started, accepts, pki};
use crate::netns::{self, Side};

const OUTBOUND: u16 = 9001;
const INBOUND: u16 = 9006;

pub(super) async fn envoy(programs: &Programs, server: SocketAddr) -> anyhow::Result<Started> {
    let keys = pki::files(&programs.state)?;
    let tls = |kind: &str, extra: &str| {
        format!(
            r#"{{name: tls, typed_config: {{"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind},
  {extra} common_tls_context: {{alpn_protocols: [h2], tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}},
  tls_certificates: [{{certificate_chain: {{filename: {keys}/leaf.crt}}, private_key: {{filename: {keys}/leaf.key}}}}],
  validation_context: {{trusted_ca: {{filename: {keys}/ca.crt}}}}}}}}}}"#
        )
    };
    let inbound_tls = format!(
        "transport_socket: {}",
        tls("DownstreamTlsContext", "require_client_certificate: true,")
    );
    let outbound_tls = format!(
        "transport_socket: {}\n    typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
         {{\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {{http2_protocol_options: {{}}}}}}}}",
        tls("UpstreamTlsContext", "sni: bench,")
    );
    let configs = [
        (
            "envoy-outbound",
            Side::Client,
            OUTBOUND,
            String::new(),
            Side::Server.at(INBOUND),
            outbound_tls,
        ),
        (
            "envoy-inbound",
            Side::Server,
            INBOUND,
            inbound_tls,
            server,
            String::new(),
        ),
    ];
    let mut children = Vec::new();
    for (name, side, port, listener, upstream, cluster) in configs {
        let path = programs.state.join(format!("{name}.yaml"));
        write(
            &path,
            &envoy_config(side.at(port), &listener, upstream, &cluster),
        )?;
        let mut command = netns::command(side, netns::PROXIES, text(&programs.envoy)?);
        command.args([
            "--config-path",
            text(&path)?,
            "--concurrency",
            "1",
            "--use-dynamic-base-id",
            "--log-level",
            "error",
        ]);
        children.push(start(command, &programs.state, name)?);
        accepts(side.at(port))
            .await
            .with_context(|| format!("starting {name}"))?;
    }
    Ok((Side::Client.at(OUTBOUND), children, None))
}

fn envoy_config(listen: SocketAddr, listener: &str, upstream: SocketAddr, cluster: &str) -> String {
    let address = |of: SocketAddr| {
        format!(
            "{{socket_address: {{address: {}, port_value: {}}}}}",
            of.ip(),
            of.port()
        )
    };
    let filter = "type.googleapis.com/envoy.extensions.filters";
    format!(
        r#"static_resources:
  listeners:
  - name: listener
    address: {listen}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": {filter}.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          generate_request_id: false
          route_config: {{virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: upstream}}}}]}}]}}
          http_filters: [{{name: router, typed_config: {{"@type": {filter}.http.router.v3.Router}}}}]
      {listener}
  clusters:
  - name: upstream
    type: STATIC
    load_assignment: {{cluster_name: upstream, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {upstream}}}}}]}}]}}
    {cluster}
"#,
        listen = address(listen),
        upstream = address(upstream),
    )
}

pub(super) async fn haproxy(programs: &Programs, server: SocketAddr) -> anyhow::Result<Started> {
    let keys = pki::files(&programs.state)?;
    let between = format!("ssl crt {keys}/leaf.pem ca-file {keys}/ca.crt verify required alpn h2");
    let configs = [
        (
            "haproxy-outbound",
            Side::Client,
            OUTBOUND,
            String::new(),
            format!(
                "{} {between} verifyhost bench ssl-min-ver TLSv1.3",
                Side::Server.at(INBOUND)
            ),
        ),
        (
            "haproxy-inbound",
            Side::Server,
            INBOUND,
            format!("{between} ssl-min-ver TLSv1.3"),
            server.to_string(),
        ),
    ];
    let mut children = Vec::new();
    for (name, side, port, bind, upstream) in configs {
        let path = programs.state.join(format!("{name}.cfg"));
        let listen = side.at(port);
        write(
            &path,
            &format!(
                "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode http\n  http-reuse always\n  timeout connect 5s\n  \
                 timeout client 60s\n  timeout server 60s\nfrontend in\n  bind {listen} {bind}\n  default_backend out\n\
                 backend out\n  server up {upstream}\n"
            ),
        )?;
        let mut command = netns::command(side, netns::PROXIES, text(&programs.haproxy)?);
        command.args(["-db", "-f", text(&path)?]);
        children.push(start(command, &programs.state, name)?);
        accepts(listen)
            .await
            .with_context(|| format!("starting {name}"))?;
    }
    Ok((Side::Client.at(OUTBOUND), children, None))
}

/// Starts a proxy with its output in `<state>/<name>.log`.
pub(super) fn start(
    mut command: tokio::process::Command,
    state: &Path,
    name: &str,
) -> anyhow::Result<Child> {
    let path = state.join(format!("{name}.log"));
    let log =
        std::fs::File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    command
        .stdout(log.try_clone()?)
        .stderr(log)
        .stdin(Stdio::null());
    command.spawn().with_context(|| format!("starting {name}"))
}

pub(super) fn write(path: &Path, content: &str) -> anyhow::Result<()> {
    std::fs::write(path, content).with_context(|| format!("writing {}", path.display()))
}

pub(super) fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
