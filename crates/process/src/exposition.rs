//! The metrics page, in the format that the scraper accepts. It is rendered at most once a second,
//! so that frequent scraping costs almost nothing.

use std::fmt::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

/// How long a rendered page is served.
const KEEP: Duration = Duration::from_secs(1);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics of a program as scrapers get them.
pub struct Exposition {
    write: Box<dyn Fn(&mut String) -> fmt::Result + Send + Sync>,
    page: Mutex<Option<Page>>,
}

struct Page {
    written: Instant,
    open_metrics: Bytes,
    text: Bytes,
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposition").finish_non_exhaustive()
    }
}

impl Exposition {
    /// `write` renders all metrics as OpenMetrics text.
    pub fn new(write: impl Fn(&mut String) -> fmt::Result + Send + Sync + 'static) -> Self {
        Self {
            write: Box::new(write),
            page: Mutex::new(None),
        }
    }

    /// Returns media type and page for a request with this `Accept`.
    ///
    /// # Errors
    ///
    /// If the metrics cannot be rendered.
    pub fn scrape(&self, accept: &str) -> Result<(&'static str, Bytes), fmt::Error> {
        self.scrape_at(accept, Instant::now())
    }

    fn scrape_at(&self, accept: &str, now: Instant) -> Result<(&'static str, Bytes), fmt::Error> {
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |page: &Page| now.saturating_duration_since(page.written) < KEEP;
        let page = match &mut *page {
            Some(page) if fresh(page) => page,
            page => page.insert(self.page(now)?),
        };
        Ok(match wants_open_metrics(accept) {
            true => (OPEN_METRICS, page.open_metrics.clone()),
            false => (TEXT, page.text.clone()),
        })
    }

    fn page(&self, written: Instant) -> Result<Page, fmt::Error> {
        let mut open_metrics = String::with_capacity(8 << 10);
        (self.write)(&mut open_metrics)?;
        let text = text(&open_metrics)?;
        Ok(Page {
            written,
            open_metrics: open_metrics.into(),
            text: text.into(),
        })
    }
}

/// Returns true if an `Accept` (RFC 9110, 12.5.1) ranks OpenMetrics 1.0.0 at least as high as the
/// text format. A wildcard range does not count, since such a client may not know OpenMetrics.
fn wants_open_metrics(accept: &str) -> bool {
    let (mut open_metrics, mut text) = (0, 0);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut version, mut weight) = (None, 1000);
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let (key, value) = (key.trim(), value.trim().trim_matches('"'));
            if key.eq_ignore_ascii_case("version") {
                version = Some(value);
            } else if key.eq_ignore_ascii_case("q") {
                weight = thousandths(value);
            }
        }
        match (name.as_str(), version) {
            ("application/openmetrics-text", None | Some("1.0.0")) => {
                open_metrics = weight.max(open_metrics);
            }
            ("text/plain", None | Some("0.0.4")) | ("text/*" | "*/*", _) => {
                text = weight.max(text);
            }
            _ => {}
        }
    }
    open_metrics > 0 && open_metrics >= text
}

/// Returns a weight in thousandths; 0 if it is malformed.
fn thousandths(value: &str) -> u16 {
    let weight: f32 = value.parse().unwrap_or(0.0);
    // In range, so only digits after the third are lost; NaN becomes 0.
    (weight.clamp(0.0, 1.0) * 1000.0) as u16
}

/// Converts OpenMetrics text to the Prometheus text format, version 0.0.4. There the family of a
/// counter has the name of its samples, units have no line, and some types have other names.
fn text(open_metrics: &str) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(open_metrics.len());
    // The line of help precedes that of the type, but the type decides the name in both.
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(of) = line.strip_prefix("# HELP ") {
            help = of.split_once(' ');
        } else if let Some(of) = line.strip_prefix("# TYPE ") {
            let (name, kind) = of.split_once(' ').unwrap_or((of, "unknown"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "stateset" => ("", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, help)) = help.take().filter(|(of, _)| *of == name) {
                writeln!(text, "# HELP {name}{suffix} {help}")?;
            }
            writeln!(text, "# TYPE {name}{suffix} {kind}")?;
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn format_is_negotiated_with_the_scraper() {
        // Requests of Prometheus 3, of Prometheus 2, of an agent that only knows the text format,
        // and of curl.
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
            application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
            text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,\
            application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, expected) in [
            (prometheus_3, true),
            (prometheus_2, true),
            ("application/openmetrics-text", true),
            (
                "Application/OpenMetrics-Text; Version=\"1.0.0\"; Q=0.5",
                true,
            ),
            ("text/plain;version=0.0.4", false),
            ("text/plain, application/openmetrics-text;q=0.9", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=x, */*;q=0.1", false),
            ("application/openmetrics-text;version=0.0.1, */*", false),
            ("*/*", false),
            ("", false),
            (";;q=,=;,", false),
        ] {
            assert_eq!(wants_open_metrics(accept), expected, "{accept}");
        }
    }

    #[test]
    fn text_format_has_prometheus_names_types_and_help() {
        let open_metrics = "\
# HELP weft_requests Requests that ended.
# TYPE weft_requests counter
weft_requests_total{route=\"# HELP a\"} 3
# HELP weft_duration_seconds Time.
# TYPE weft_duration_seconds histogram
# UNIT weft_duration_seconds seconds
weft_duration_seconds_sum 0.5
weft_duration_seconds_count 1
weft_duration_seconds_bucket{le=\"+Inf\"} 1
# HELP odd Odd.
# TYPE odd unknown
odd 1
# EOF
";
        let expected = "\
# HELP weft_requests_total Requests that ended.
# TYPE weft_requests_total counter
weft_requests_total{route=\"# HELP a\"} 3
# HELP weft_duration_seconds Time.
# TYPE weft_duration_seconds histogram
weft_duration_seconds_sum 0.5
weft_duration_seconds_count 1
weft_duration_seconds_bucket{le=\"+Inf\"} 1
# HELP odd Odd.
# TYPE odd untyped
odd 1
";
        assert_eq!(text(open_metrics).unwrap(), expected);
    }

    #[test]
    fn page_is_rendered_at_most_once_a_second() {
        let written = Arc::new(AtomicU32::new(0));
        let count = written.clone();
        let exposition = Exposition::new(move |page| {
            let turn = count.fetch_add(1, Ordering::Relaxed);
            writeln!(page, "turn {turn}\n# EOF")
        });
        let begun = Instant::now();
        let at = |millis: u64| {
            let now = begun + Duration::from_millis(millis);
            exposition.scrape_at("*/*", now).unwrap().1
        };
        for millis in [0, 1, 500, 999] {
            assert_eq!(at(millis), "turn 0\n");
        }
        assert_eq!(at(1000), "turn 1\n");
        assert_eq!(at(1001), "turn 1\n");
        let open_metrics = exposition.scrape_at("application/openmetrics-text", begun);
        assert_eq!(
            open_metrics,
            Ok((OPEN_METRICS, Bytes::from("turn 1\n# EOF\n")))
        );
        assert_eq!(written.load(Ordering::Relaxed), 2);
    }
}
