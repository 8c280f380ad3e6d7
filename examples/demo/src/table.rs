//! Tables of the proxies' access logs: outbound requests by rule, inbound requests by identity.

use std::collections::{BTreeMap, HashMap};

use crate::logs::Entry;

/// The workload that a request was sent to: `reviews-v1`.
pub(crate) fn place(entry: &Entry, pods: &HashMap<String, String>) -> String {
    let endpoint = entry.text("endpoint");
    let ip = endpoint
        .rsplit_once(':')
        .map_or(endpoint.as_str(), |(ip, _)| ip);
    let ip = ip.trim_start_matches('[').trim_end_matches(']');
    match pods.get(ip) {
        Some(what) => what.clone(),
        None if endpoint.is_empty() => "-".to_owned(),
        None => endpoint,
    }
}

/// Number of requests by rule and version, with both identities as logged by the client's proxy.
pub(crate) fn outbound(entries: &[Entry], pods: &HashMap<String, String>) -> String {
    let rows = entries.iter().filter(|entry| entry.outbound).map(|entry| {
        let rule = match (entry.text("route"), entry.text("rule")) {
            (route, _) if route.is_empty() => "(no route)".to_owned(),
            (route, rule) if rule.is_empty() => route,
            (route, rule) => format!("{route} {rule}"),
        };
        [
            rule,
            place(entry, pods),
            entry.text("code"),
            known(entry, "client_id"),
            known(entry, "server_id"),
        ]
    });
    render(
        "As the clients' proxies saw it",
        ["route and rule", "sent to", "code", "client", "server"],
        count(rows),
    )
}

/// Number of requests by client identity, as logged by the server's proxy.
pub(crate) fn inbound(entries: &[Entry], pods: &HashMap<String, String>) -> String {
    let by_prefix = |pod: &str| {
        let mut apps: Vec<_> = pods
            .values()
            .filter(|app| pod.starts_with(app.as_str()))
            .collect();
        apps.sort_by_key(|app| std::cmp::Reverse(app.len()));
        apps.first()
            .map_or_else(|| pod.to_owned(), |app| (*app).clone())
    };
    // The kubelet's probes are plain text and not part of the shop's traffic.
    let asked = entries
        .iter()
        .filter(|entry| !entry.outbound && !entry.text("path").starts_with("/healthz"));
    let rows = asked.map(|entry| {
        [
            by_prefix(&entry.pod),
            entry.text("protocol"),
            entry.text("code"),
            known(entry, "client_id"),
            known(entry, "server_id"),
        ]
    });
    render(
        "As the servers' proxies saw it",
        ["received by", "protocol", "code", "client", "server"],
        count(rows),
    )
}

fn known(entry: &Entry, field: &str) -> String {
    match entry.text(field) {
        id if id.is_empty() => "none: plain text".to_owned(),
        id => id,
    }
}

fn count(rows: impl Iterator<Item = [String; 5]>) -> BTreeMap<[String; 5], u32> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row).or_default() += 1;
    }
    counts
}

fn render(title: &str, heads: [&str; 5], rows: BTreeMap<[String; 5], u32>) -> String {
    let mut lines =
        vec![[heads[0], heads[1], heads[2], "requests", heads[3], heads[4]].map(str::to_owned)];
    for ([a, b, c, d, e], count) in rows {
        lines.push([a, b, c, count.to_string(), d, e]);
    }
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].len())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..6).map(width).collect();
    let mut text = format!("{title}:\n");
    for line in &lines {
        let cells = line
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}
