//! Installs the redirect rules of a pod by `nft`. Runs once, before any other container; a second
//! run leaves the same rules.

mod ruleset;

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

pub use ruleset::{Redirect, render};

/// Why the rules are not installed; the pod must not start then.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    #[error("running {nft}: {source}; check that the image has it")]
    Start { nft: String, source: std::io::Error },
    #[error("writing the rules to {nft}: {source}")]
    Feed { nft: String, source: std::io::Error },
    #[error("{nft} failed ({status}): {message}{hint}")]
    Failed {
        nft: String,
        status: ExitStatus,
        message: String,
        hint: &'static str,
    },
}

/// Installs the rules in the network namespace of this process: all of them, or, on an error, none.
pub fn apply(nft: &Path, redirect: &Redirect) -> Result<(), RedirectError> {
    let name = nft.display().to_string();
    let mut child = Command::new(nft)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| RedirectError::Start {
            nft: name.clone(),
            source,
        })?;
    // The handle is dropped at the end of the statement, as nft reads until the end of its input.
    let written = match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(render(redirect).as_bytes()),
        None => Ok(()),
    };
    let output = child
        .wait_with_output()
        .map_err(|source| RedirectError::Feed {
            nft: name.clone(),
            source,
        })?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let hint = hint(&message);
        return Err(RedirectError::Failed {
            nft: name,
            status: output.status,
            message,
            hint,
        });
    }
    written.map_err(|source| RedirectError::Feed { nft: name, source })
}

/// Returns the usual cause of a message of nft.
fn hint(message: &str) -> &'static str {
    if message.contains("Operation not permitted") || message.contains("Permission denied") {
        "\ncheck that the container has the capability NET_ADMIN and runs as user 0"
    } else if message.contains("No such file or directory")
        || message.contains("not supported")
        || message.contains("Could not process rule")
    {
        "\ncheck that the node's kernel has nf_tables with NAT (nft_chain_nat, nft_redir, nft_ct, \
         nft_reject_inet)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_nft_is_named() {
        let error = apply(Path::new("/nowhere/nft"), &Redirect::default()).unwrap_err();
        assert!(error.to_string().contains("/nowhere/nft"), "{error}");
    }

    #[test]
    fn a_failing_nft_is_an_error() {
        let error = apply(Path::new("/bin/false"), &Redirect::default()).unwrap_err();
        assert!(matches!(error, RedirectError::Failed { .. }), "{error}");
    }

    #[test]
    fn lack_of_rights_is_explained() {
        assert!(
            hint("Error: Could not process rule: Operation not permitted").contains("NET_ADMIN")
        );
        assert!(
            hint("Error: Could not process rule: No such file or directory").contains("kernel")
        );
    }
}
