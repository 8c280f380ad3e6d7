//! Runs kubectl, and prints what it runs. Decides nothing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use serde_json::Value;

/// A heading between the steps.
pub(crate) fn say(what: &str) {
    println!("\n== {what}");
}

pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    /// The checkout, for manifests.
    pub(crate) root: PathBuf,
}

impl Kubectl {
    /// The kubectl of the test cluster where it was built, else the one on PATH; `KUBECONFIG`, else that of the test
    /// cluster.
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

    /// Prints the command, lets it write to the terminal, and fails when it does.
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

    /// Prints the command and starts it; its stdout is for the caller.
    pub(crate) fn start(&self, arguments: &[&str]) -> anyhow::Result<Child> {
        Self::print(arguments);
        self.start_quietly(arguments)
    }

    /// Starts without printing: for what is asked again and again.
    pub(crate) fn start_quietly(&self, arguments: &[&str]) -> anyhow::Result<Child> {
        self.command(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Only that the program in the pod ended with 1, which its summary says better.
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| self.missing())
    }

    /// Runs without printing, and returns what it wrote.
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
        String::from_utf8(output.stdout).context("kubectl wrote what is no text")
    }

    pub(crate) fn read_json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = self.read(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text)
            .with_context(|| format!("kubectl {} wrote no JSON", arguments.join(" ")))
    }

    fn missing(&self) -> String {
        format!(
            "cannot run {}: `make cluster` builds it, or put kubectl on PATH",
            self.program.display()
        )
    }
}
