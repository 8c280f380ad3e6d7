//! CPU time and resident memory of a process, from `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// Returns the CPU time of all threads, from `/proc/<pid>/task/*/schedstat` (nanoseconds), without
/// that of threads that have ended.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let tasks = format!("/proc/{pid}/task");
    let mut nanos = 0;
    for task in
        fs::read_dir(&tasks).with_context(|| format!("reading {tasks}: has the process ended?"))?
    {
        let path = task?.path().join("schedstat");
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        nanos += text
            .split(' ')
            .next()
            .and_then(|first| first.parse::<u64>().ok())
            .unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanos))
}

/// Returns the resident memory in MiB, from `VmRSS` of `/proc/<pid>/status`.
pub(crate) fn resident(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path)
        .with_context(|| format!("reading {path}: has the process ended?"))?;
    let kib = status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .trim()
                .strip_suffix(" kB")?
                .parse::<f64>()
                .ok()
        })
        .with_context(|| format!("{path} has no VmRSS"))?;
    Ok(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn own_process_has_cpu_time_and_memory() {
        assert!(super::cpu(std::process::id()).unwrap().as_nanos() > 0);
        assert!(super::resident(std::process::id()).unwrap() > 0.1);
    }
}
