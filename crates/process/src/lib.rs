//! What the programs of Weft have to do with their own process: how many files they may open, and its metrics, named as
//! every Prometheus client library names them, and its log. Linux alone.

pub mod log;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets this process open as many files as it is allowed to. A connection is a file; container runtimes begin with 1,024 of
/// them, for the sake of programs that use select(2), and leave it to others to ask for more.
pub fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => tracing::debug!(?current, ?maximum, "open files: limit raised"),
        Err(error) => tracing::warn!(
            ?current, ?maximum, %error,
            "the limit of open files stays: beyond it no connection is accepted or opened"
        ),
    }
}

/// Reads this process's figures at each scrape.
#[derive(Debug)]
pub struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let limit = getrlimit(Resource::Nofile).current;
        let figures = [
            (
                "process_resident_memory_bytes",
                "Resident memory",
                resident_bytes(),
            ),
            ("process_open_fds", "Open files", open_files()),
            (
                "process_max_fds",
                "Files that may be open at once",
                limit.and_then(|limit| i64::try_from(limit).ok()),
            ),
        ];
        for (name, help, figure) in figures {
            if let Some(figure) = figure {
                let gauge = ConstGauge::new(figure);
                gauge.encode(encoder.encode_descriptor(
                    name,
                    help,
                    None,
                    gauge.metric_type(),
                )?)?;
            }
        }
        Ok(())
    }
}

/// From `/proc/self/statm`, whose second figure is in pages of 4 KiB on every platform Weft runs on (proc(5)).
fn resident_bytes() -> Option<i64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: i64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

fn open_files() -> Option<i64> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // Without the one by which they are counted.
    i64::try_from(open).ok().map(|open| open - 1)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;

    use super::*;

    fn scraped(name: &str) -> Option<i64> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessCollector));
        let mut written = String::new();
        text::encode(&mut written, &registry).ok()?;
        let mut lines = written.lines();
        let figure = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        figure.parse().ok()
    }

    #[test]
    fn the_limit_is_raised_and_files_are_counted() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let low = Rlimit {
            current: Some(200),
            maximum,
        };
        assert!(setrlimit(Resource::Nofile, low).is_ok());
        assert_eq!(scraped("process_max_fds"), Some(200));
        raise_file_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);

        let before = scraped("process_open_fds");
        let held: Vec<_> = (0..300).map(|_| std::fs::File::open("/dev/null")).collect();
        assert!(held.iter().all(Result::is_ok), "more than 200 are open");
        assert_eq!(
            scraped("process_open_fds"),
            before.map(|before| before + 300)
        );
        assert!(scraped("process_resident_memory_bytes") > Some(1 << 20));
    }
}
