//! Reads new entries of the proxies' access logs, by the timestamps that the nodes add to each
//! line.

use std::collections::HashMap;

use serde_json::Value;

use crate::kubectl::Kubectl;

/// The timestamp up to which each pod's log was read.
#[derive(Default)]
pub(crate) struct Cursor(HashMap<String, String>);

/// A request as logged by one proxy.
pub(crate) struct Entry {
    pub(crate) pod: String,
    pub(crate) outbound: bool,
    fields: Value,
}

impl Entry {
    /// Returns a field as text; empty if absent.
    pub(crate) fn text(&self, name: &str) -> String {
        match &self.fields[name] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// Returns the rule's name, or its index in the route.
    pub(crate) fn is_rule(&self, name: &str, index: u32) -> bool {
        let rule = self.text("rule");
        self.text("route").ends_with("shop/reviews")
            && (rule == name || rule == index.to_string())
            && !self.text("route").starts_with("GRPCRoute")
    }

    pub(crate) fn failed(&self) -> bool {
        let code = self.text("code").parse::<u32>().unwrap_or(0);
        let grpc = self.text("grpc_status").parse::<u32>().unwrap_or(0);
        code >= 400 || grpc != 0 || !self.text("error").is_empty()
    }

    pub(crate) fn to_a_pod_in_plain_text(&self) -> bool {
        self.outbound && !self.text("endpoint").is_empty() && self.text("server_id").is_empty()
    }
}

impl Kubectl {
    /// Returns the requests that the shop's proxies logged since the last call.
    pub(crate) fn read_new(&self, cursor: &mut Cursor) -> anyhow::Result<Vec<Entry>> {
        let mut arguments = vec![
            "-n",
            "shop",
            "logs",
            "-l",
            "app",
            "-c",
            "weft-proxy",
            "--prefix",
            "--timestamps",
        ];
        arguments.extend(["--tail=-1", "--max-log-requests=50"]);
        let since = cursor
            .0
            .values()
            .min()
            .map(|time| format!("--since-time={time}"));
        arguments.extend(since.as_deref());
        Ok(parse(&self.read(&arguments)?, cursor))
    }
}

/// Parses lines `[pod/NAME/CONTAINER] TIME TEXT`; lines that are no access log entries are skipped.
fn parse(text: &str, cursor: &mut Cursor) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut newest = HashMap::<String, String>::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ' ');
        let (Some(source), Some(time), Some(text)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let Some(pod) = source.trim_start_matches("[pod/").split('/').next() else {
            continue;
        };
        // Timestamps have a fixed width, so they sort as text.
        if cursor.0.get(pod).is_some_and(|read| time <= read.as_str()) {
            continue;
        }
        newest.insert(pod.to_owned(), time.to_owned());
        let fields = serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
        let outbound = match fields["direction"].as_str() {
            Some("outbound") => true,
            Some("inbound") => false,
            _ => continue,
        };
        entries.push(Entry {
            pod: pod.to_owned(),
            outbound,
            fields,
        });
    }
    cursor.0.extend(newest);
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"[pod/shopper-1-a/weft-proxy] 2026-01-02T03:04:05.100000000Z {"direction":"outbound","rule":0,"code":200}
[pod/reviews-1-b/weft-proxy] 2026-01-02T03:04:05.200000000Z {"direction":"inbound","code":503}
[pod/shopper-1-a/weft-proxy] 2026-01-02T03:04:05.300000000Z ready
"#;

    #[test]
    fn log_line_is_read_once() {
        let mut cursor = Cursor::default();
        let entries = parse(LINES, &mut cursor);
        let seen: Vec<_> = entries
            .iter()
            .map(|entry| (entry.pod.as_str(), entry.outbound, entry.failed()))
            .collect();
        assert_eq!(
            seen,
            [("shopper-1-a", true, false), ("reviews-1-b", false, true)]
        );
        assert!(parse(LINES, &mut cursor).is_empty());
    }
}
