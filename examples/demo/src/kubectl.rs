//! Runs kubectl, and prints the commands.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use serde_json::Value;

/// Prints a heading between steps.
pub(crate) fn say(what: &str) {
    println!("\n== {what}");
}

pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    /// The checkout, which contains the manifests.
    pub(crate) root: PathBuf,
}

impl Kubectl {
    /// Uses the kubectl of the test cluster if it was built, else the one on PATH; `KUBECONFIG`,
    /// else that of the test cluster.
    pub(crate) fn find() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = root.canonicalize().unwrap_or(root);
        let own = root.join("target/cluster/bin/kubectl");
        Self {
            program: if own.exists() { own } else { "kubectl".into() },
            kubeconfig: env::var_os("KUBECONFIG")
                .map_or_else(|| root.join(".cluster/kubeconfig"), PathBuf::from),
            root,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .current_dir(&self.root);
        command
    }

    fn print(arguments: &[&str]) {
        let quoted = arguments.iter().map(|argument| {
            let plain = |c: char| c.is_alphanumeric() || "-_./:=,".contains(c);
            if argument.chars().all(plain) {
                (*argument).to_owned()
            } else {
                format!("'{argument}'")
            }
        });
        println!("$ kubectl {}", quoted.collect::<Vec<_>>().join(" "));
    }

    /// Prints the command and runs it with its output on the terminal; fails if it fails.
    pub(crate) fn show(&self, arguments: &[&str]) -> anyhow::Result<()> {
        Self::print(arguments);
        let status = self
            .command(arguments)
            .status()
            .with_context(|| self.missing())?;
        anyhow::ensure!(
            status.success(),
            "kubectl {} ended with {status}",
            arguments.join(" ")
        );
        Ok(())
    }

    /// Prints the command and starts it, with its stdout piped to the caller.
    pub(crate) fn start(&self, arguments: &[&str]) -> anyhow::Result<Child> {
        Self::print(arguments);
        self.start_quietly(arguments)
    }

    /// Starts a command without printing it, for polling.
    pub(crate) fn start_quietly(&self, arguments: &[&str]) -> anyhow::Result<Child> {
        self.command(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // stderr only tells that the program in the pod exited with 1; its summary tells more.
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| self.missing())
    }

    /// Runs a command without printing it, and returns its output.
    pub(crate) fn read(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self
            .command(arguments)
            .output()
            .with_context(|| self.missing())?;
        anyhow::ensure!(
            output.status.success(),
            "kubectl {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        String::from_utf8(output.stdout).context("the output of kubectl is not UTF-8")
    }

    pub(crate) fn read_json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = self.read(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text)
            .with_context(|| format!("the output of kubectl {} is not JSON", arguments.join(" ")))
    }

    fn missing(&self) -> String {
        format!(
            "cannot run {}: `make cluster` builds it, or put kubectl on PATH",
            self.program.display()
        )
    }
}
