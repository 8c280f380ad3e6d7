//! What all programs of Weft need from their own process: the limit of open files, process metrics
//! under the names that Prometheus client libraries use, the metrics page, and logging. Linux only.

mod exposition;
pub mod log;

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

pub use exposition::Exposition;

/// Raises the soft limit of open files to the hard limit. Every connection is a file. Container
/// runtimes start with 1,024, for programs that use select(2).
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
            "cannot raise the limit of open files: connections fail once it is reached"
        ),
    }
}

/// The commit that the program was built from, where the builder names it. It comes from the
/// environment and not from a build script that asks git, so that the same sources and environment
/// give the same program.
fn revision() -> Option<&'static str> {
    option_env!("WEFT_REVISION").filter(|revision| !revision.is_empty())
}

/// Reads this process's figures at each scrape.
#[derive(Debug)]
pub struct ProcessCollector {
    component: &'static str,
    /// Unix time in seconds.
    started: f64,
}

impl ProcessCollector {
    /// Creates the collector when the process starts; `component` is its name in `weft_build_info`.
    pub fn new(component: &'static str) -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            component,
            started: started.map_or(0.0, |since| since.as_secs_f64()),
        }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let limit = getrlimit(Resource::Nofile).current;
        let figures = [
            (
                "process_resident_memory_bytes",
                "Resident memory",
                resident_bytes().and_then(|bytes| i64::try_from(bytes).ok()),
            ),
            ("process_open_fds", "Open files", open_files()),
            (
                "process_max_fds",
                "Maximum number of open file descriptors",
                limit.and_then(|limit| i64::try_from(limit).ok()),
            ),
        ];
        for (name, help, figure) in figures {
            if let Some(figure) = figure {
                put(&mut encoder, name, help, &ConstGauge::new(figure))?;
            }
        }
        let name = "process_start_time_seconds";
        let help = "Start time of the process as Unix time";
        put(&mut encoder, name, help, &ConstGauge::new(self.started))?;
        let (name, help) = ("process_cpu_seconds", "Total user and system CPU time");
        put(&mut encoder, name, help, &ConstCounter::new(cpu_seconds()))?;

        let built = ConstGauge::new(1_i64);
        let help = "Always 1; the labels identify the build";
        let mut labels = vec![
            ("component", self.component),
            ("version", env!("CARGO_PKG_VERSION")),
        ];
        labels.extend(revision().map(|revision| ("revision", revision)));
        let mut family =
            encoder.encode_descriptor("weft_build_info", help, None, built.metric_type())?;
        built.encode(family.encode_family(&labels)?)
    }
}

fn put(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    figure: &impl EncodeMetric,
) -> fmt::Result {
    let help = format!("{help}.");
    let kind = figure.metric_type();
    figure.encode(encoder.encode_descriptor(name, &help, None, kind)?)
}

fn cpu_seconds() -> f64 {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}

/// Returns the resident memory of this process in bytes, from `/proc/self/statm`. Its second number
/// counts pages, of 4 KiB on every platform that Weft supports (proc(5)).
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// Returns the memory limit of the container in bytes, in either version of cgroups, or `None` if
/// there is none.
pub fn memory_limit() -> Option<u64> {
    let of = |path| limit(&std::fs::read_to_string(path).ok()?);
    of("/sys/fs/cgroup/memory.max").or_else(|| of("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
}

/// cgroups v1 expresses "no limit" as a number that no machine has.
fn limit(text: &str) -> Option<u64> {
    let bytes = text.trim().parse().ok()?;
    (bytes < 1 << 60).then_some(bytes)
}

fn open_files() -> Option<i64> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // Without the descriptor that is used for counting.
    i64::try_from(open).ok().map(|open| open - 1)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;

    use super::*;

    fn scrape() -> Option<String> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessCollector::new("test")));
        let mut written = String::new();
        text::encode(&mut written, &registry).ok()?;
        Some(written)
    }

    fn scraped(name: &str) -> Option<i64> {
        let written = scrape()?;
        let mut lines = written.lines();
        let figure = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        figure.parse().ok()
    }

    #[test]
    fn memory_limits_are_parsed() {
        assert_eq!(limit("268435456\n"), Some(256 << 20));
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None);
    }

    #[test]
    fn file_limit_is_raised_and_open_files_are_counted() {
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

    #[test]
    fn build_start_time_and_cpu_time_are_exported() {
        let page = scrape().unwrap_or_default();
        let version = env!("CARGO_PKG_VERSION");
        let revision = revision().map(|revision| format!(",revision=\"{revision}\""));
        let revision = revision.unwrap_or_default();
        let build =
            format!("\nweft_build_info{{component=\"test\",version=\"{version}\"{revision}}} 1\n");
        assert!(page.contains(&build), "{page}");
        let figure = |name: &str| -> f64 {
            let line = page.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().parse().ok())
                .unwrap_or(0.0)
        };
        assert!(figure("process_start_time_seconds ") > 1.7e9, "{page}");
        assert!(figure("process_cpu_seconds_total ") > 0.0, "{page}");
    }
}
