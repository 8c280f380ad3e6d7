//! The access log: one line of JSON per request, and per connection of other bytes, on standard
//! output. As text: see `text`.
//!
//! A request hands its line to a bounded queue and goes on; one thread writes. When the writer is
//! behind, lines are dropped and counted. Lines written before the handle is closed are flushed at
//! the end.

use std::fmt::Display;
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use serde::{Serialize, Serializer};
use tonic::Code;
use weft_ir::{Identity, PolicyId};

use super::authorization::AuthorizationDecision;
use super::error_type::ErrorType;
use super::labels::{Direction, RequestProtocol};
use super::requests::RequestMetrics;
use crate::options::AccessLogLevel;

/// Lines that wait for the writer at most.
const QUEUE: usize = 4_096;

/// What is said of one request. What is `None` is left out of the line.
#[derive(Debug, Serialize)]
pub struct Record<'a> {
    #[serde(serialize_with = "direction")]
    pub direction: Direction,
    pub client: Option<SocketAddr>,
    #[serde(serialize_with = "display", skip_serializing_if = "Option::is_none")]
    pub client_id: Option<&'a Identity>,
    #[serde(serialize_with = "display", skip_serializing_if = "Option::is_none")]
    pub server_id: Option<&'a Identity>,
    /// Of a gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<&'a str>,
    pub method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<&'a str>,
    pub path: &'a str,
    #[serde(serialize_with = "protocol")]
    pub protocol: RequestProtocol,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub route: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub rule: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub backend: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization: Option<AuthorizationDecision>,
    /// The policy that decided.
    #[serde(serialize_with = "display", skip_serializing_if = "Option::is_none")]
    pub authorization_policy: Option<&'a PolicyId>,
    #[serde(serialize_with = "code")]
    pub code: StatusCode,
    #[serde(
        serialize_with = "grpc_status",
        skip_serializing_if = "Option::is_none"
    )]
    pub grpc_status: Option<Code>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_type: Option<ErrorType>,
    /// Why the proxy answered itself, in plain words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub duration: Duration,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl<'a> Record<'a> {
    /// A record that says where a request was counted, and nothing of the request yet.
    pub fn of(metrics: &'a RequestMetrics, protocol: RequestProtocol, code: StatusCode) -> Self {
        Self {
            direction: metrics.direction(),
            client: None,
            client_id: None,
            server_id: None,
            listener: None,
            method: "",
            authority: None,
            path: "",
            protocol,
            route: metrics.route(),
            rule: metrics.rule(),
            backend: metrics.backend(),
            endpoint: None,
            authorization: None,
            authorization_policy: None,
            code,
            grpc_status: None,
            error_type: None,
            error: None,
            duration: Duration::ZERO,
            bytes_in: 0,
            bytes_out: 0,
        }
    }
}

#[derive(Serialize)]
struct Line<'a, R> {
    time: String,
    #[serde(flatten)]
    record: &'a R,
}

pub(super) fn direction<S: Serializer>(of: &Direction, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(of.as_str())
}

fn protocol<S: Serializer>(of: &RequestProtocol, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(of.as_str())
}

fn code<S: Serializer>(of: &StatusCode, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u16(of.as_u16())
}

fn grpc_status<S: Serializer>(of: &Option<Code>, to: S) -> Result<S::Ok, S::Error> {
    of.map(i32::from).serialize(to)
}

pub(super) fn milliseconds<S: Serializer>(of: &Duration, to: S) -> Result<S::Ok, S::Error> {
    // To the microsecond.
    to.serialize_f64(of.as_micros() as f64 / 1e3)
}

pub(super) fn display<T: Display, S: Serializer>(
    of: &Option<&T>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match of {
        Some(of) => to.collect_str(of),
        None => to.serialize_none(),
    }
}

/// The way into the log; clones write to the same one.
#[derive(Clone, Debug)]
pub struct AccessLog {
    level: AccessLogLevel,
    lines: Option<SyncSender<Vec<u8>>>,
    dropped: Counter,
}

/// Ends the log in order.
#[derive(Debug)]
pub struct Writer(Option<JoinHandle<()>>);

impl AccessLog {
    /// Writes to `out` from a thread of its own. Errors when no thread can be had.
    pub fn start(
        level: AccessLogLevel,
        out: impl Write + Send + 'static,
        dropped: Counter,
    ) -> std::io::Result<(Self, Writer)> {
        if level == AccessLogLevel::Off {
            return Ok((Self::off(), Writer(None)));
        }
        let (lines, queue) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write(out, &queue))?;
        let log = Self {
            level,
            lines: Some(lines),
            dropped,
        };
        Ok((log, Writer(Some(thread))))
    }

    /// Writes nothing.
    pub fn off() -> Self {
        Self {
            level: AccessLogLevel::Off,
            lines: None,
            dropped: Counter::default(),
        }
    }

    /// Whether such a request is logged: ask before making a [`Record`].
    pub fn wants(&self, code: StatusCode, grpc_status: Option<Code>, failed: bool) -> bool {
        match self.level {
            AccessLogLevel::Off => false,
            AccessLogLevel::All => true,
            AccessLogLevel::Errors => {
                failed
                    || code.as_u16() >= 400
                    || grpc_status.is_some_and(|status| status != Code::Ok)
            }
        }
    }

    /// Whether such a connection of bytes is logged.
    pub fn wants_connection(&self, failed: bool) -> bool {
        match self.level {
            AccessLogLevel::Off => false,
            AccessLogLevel::All => true,
            AccessLogLevel::Errors => failed,
        }
    }

    /// Hands the line to the writer, or drops it when the writer is behind.
    pub fn write<R: Serialize>(&self, record: &R) {
        let Some(lines) = &self.lines else { return };
        let now = time::OffsetDateTime::now_utc();
        let time = now
            .format(&time::format_description::well_known::Rfc3339)
            .unwrap_or_default();
        let Ok(mut line) = serde_json::to_vec(&Line { time, record }) else {
            self.dropped.inc();
            return;
        };
        line.push(b'\n');
        if lines.try_send(line).is_err() {
            self.dropped.inc();
        }
    }
}

impl Writer {
    /// Waits until everything is written. Every [`AccessLog`] has to be dropped before, or this
    /// waits for that too.
    pub fn finish(self) {
        if let Some(thread) = self.0 {
            // A writer that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Lines are written together while more wait, and flushed when none does.
fn write(out: impl Write, queue: &Receiver<Vec<u8>>) {
    let mut out = BufWriter::with_capacity(64 << 10, out);
    while let Ok(first) = queue.recv() {
        let mut next = Some(first);
        while let Some(line) = next {
            if out.write_all(&line).is_err() {
                // Nobody reads: keep the queue empty, say nothing more of it.
                break;
            }
            next = queue.try_recv().ok();
        }
        let _ = out.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[derive(Clone, Default)]
    struct SharedBuffer(Arc<Mutex<Vec<u8>>>);

    impl Write for SharedBuffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines(
        level: AccessLogLevel,
        write: impl FnOnce(&AccessLog, &Metrics),
    ) -> Vec<serde_json::Value> {
        let out = SharedBuffer::default();
        let metrics = Metrics::new();
        let dropped = metrics.access_log_dropped.clone();
        let (log, writer) = AccessLog::start(level, out.clone(), dropped).unwrap();
        write(&log, &metrics);
        drop(log);
        writer.finish();
        let bytes = out.0.lock().unwrap();
        let lines = std::str::from_utf8(&bytes).unwrap().lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn access_log_line_escapes_request_data() {
        let lines = lines(AccessLogLevel::All, |log, metrics| {
            let mut record = Record::of(&metrics.inbound, RequestProtocol::Http1, StatusCode::OK);
            record.path = "/a\"b\\\u{7}\u{2028}";
            record.duration = Duration::from_micros(1_234);
            log.write(&record);
        });
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["path"], "/a\"b\\\u{7}\u{2028}");
        assert_eq!(lines[0]["code"], 200);
        assert_eq!(lines[0]["duration_ms"], 1.234);
        assert_eq!(lines[0]["direction"], "inbound");
        assert!(lines[0].get("route").is_none());
    }

    #[test]
    fn queued_access_log_lines_are_written_at_shutdown() {
        let lines = lines(AccessLogLevel::All, |log, metrics| {
            for n in 0..1_000 {
                let mut record =
                    Record::of(&metrics.inbound, RequestProtocol::Grpc, StatusCode::OK);
                record.bytes_in = n;
                log.write(&record);
            }
        });
        assert_eq!(lines.len(), 1_000);
        assert_eq!(lines[999]["bytes_in"], 999);
    }

    #[test]
    fn slow_access_log_writer_drops_lines_without_blocking() {
        struct Stuck(std::sync::mpsc::Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let metrics = Metrics::new();
        let (release, stuck) = std::sync::mpsc::channel();
        let dropped = metrics.access_log_dropped.clone();
        let (log, writer) =
            AccessLog::start(AccessLogLevel::All, Stuck(stuck), dropped.clone()).unwrap();
        let record = Record::of(&metrics.inbound, RequestProtocol::Http1, StatusCode::OK);
        for _ in 0..3 * QUEUE {
            log.write(&record);
        }
        assert!(dropped.get() > 0);
        drop((log, release));
        writer.finish();
    }

    #[test]
    fn errors_level_logs_failed_requests_only() {
        let metrics = Metrics::new();
        let dropped = metrics.access_log_dropped.clone();
        let (log, _writer) =
            AccessLog::start(AccessLogLevel::Errors, std::io::sink(), dropped).unwrap();
        assert!(!log.wants(StatusCode::OK, None, false));
        assert!(!log.wants(StatusCode::OK, Some(Code::Ok), false));
        assert!(log.wants(StatusCode::OK, Some(Code::Unavailable), false));
        assert!(log.wants(StatusCode::NOT_FOUND, None, false));
        assert!(log.wants(StatusCode::OK, None, true));
        assert!(!AccessLog::off().wants(StatusCode::BAD_GATEWAY, None, true));
    }
}
