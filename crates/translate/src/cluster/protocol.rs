//! The declared protocol of a Service port.

use weft_ir::Protocol;

/// Returns the protocol by `appProtocol` (KEP-3726 and common names), else by the port's name up to
/// the first `-`.
pub(super) fn protocol(app_protocol: &str, name: &str) -> Protocol {
    let app_protocol = app_protocol.to_ascii_lowercase();
    let said = app_protocol
        .strip_prefix("kubernetes.io/")
        .unwrap_or(&app_protocol);
    let named = name.split('-').next().unwrap_or_default();
    known_protocol(said)
        .or_else(|| known_protocol(&named.to_ascii_lowercase()))
        .unwrap_or_default()
}

fn known_protocol(word: &str) -> Option<Protocol> {
    Some(match word {
        "http" | "ws" => Protocol::Http1,
        "http2" | "h2c" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "https" | "tls" | "wss" => Protocol::Tls,
        // In most of these protocols the server speaks first, so they cannot be detected.
        "tcp" | "mongo" | "mongodb" | "redis" | "mysql" | "mariadb" | "postgres" | "postgresql"
        | "kafka" | "amqp" | "mqtt" | "smtp" | "ftp" | "ssh" | "ldap" | "memcached"
        | "cassandra" => Protocol::Tcp,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_protocol_takes_precedence_over_the_port_name() {
        for (app_protocol, name, expected) in [
            ("kubernetes.io/h2c", "http", Protocol::Http2),
            ("Kubernetes.IO/WS", "", Protocol::Http1),
            ("kubernetes.io/wss", "", Protocol::Tls),
            ("HTTP", "tcp-raw", Protocol::Http1),
            ("grpc", "", Protocol::Grpc),
            ("", "grpc-web", Protocol::Grpc),
            ("", "https-admin", Protocol::Tls),
            ("", "tcp", Protocol::Tcp),
            ("", "Redis-main", Protocol::Tcp),
            ("", "httpx", Protocol::Detect),
            ("example.com/own", "http", Protocol::Http1),
            ("", "", Protocol::Detect),
        ] {
            assert_eq!(
                protocol(app_protocol, name),
                expected,
                "{app_protocol} {name}"
            );
        }
    }
}
