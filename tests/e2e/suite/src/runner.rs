//! Runs a test in a namespace of its own, alone or among others.

use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context;

use crate::release::Release;
use crate::test_namespace::connect;
use crate::{Injection, TestNamespace, control_plane, diagnose, soak};

/// Tests that restart parts of the control plane hold this exclusively; all others share it.
static CONTROL_PLANE: RwLock<()> = RwLock::new(());

/// Held by tests that send hundreds of requests a second, so that only one runs at a time.
static MACHINE: Mutex<()> = Mutex::new(());

/// Runs a test that does not change the control plane.
pub fn run(
    name: &str,
    injection: Injection,
    test: impl AsyncFnOnce(&TestNamespace) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let _shared = CONTROL_PLANE.read().unwrap_or_else(PoisonError::into_inner);
    block_on(name, injection, soak::limit(), test)
}

/// Runs a test that does not change the control plane and sends much traffic; one at a time.
pub fn run_busy(
    name: &str,
    injection: Injection,
    test: impl AsyncFnOnce(&TestNamespace) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let _turn = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    run(name, injection, test)
}

/// Runs a test that restarts or stops a part of the control plane, with no other test running.
pub fn run_alone(
    name: &str,
    injection: Injection,
    test: impl AsyncFnOnce(&TestNamespace) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    alone(name, injection, soak::limit(), test)
}

/// Like [`run_alone`], with a longer time limit.
pub fn run_alone_long(
    name: &str,
    injection: Injection,
    test: impl AsyncFnOnce(&TestNamespace) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    alone(name, injection, soak::long_limit(), test)
}

/// Runs a test that replaces or removes the installed Weft, like [`run_alone_long`], and restores
/// the installation afterwards.
pub fn run_installation(
    name: &str,
    injection: Injection,
    test: impl AsyncFnOnce(&TestNamespace) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    alone(
        name,
        injection,
        soak::long_limit(),
        async |ns: &TestNamespace| {
            let found = Release::found().await?;
            // Shorter than the limit of the whole, so that the installation is always restored.
            let limit = soak::limit();
            let outcome = tokio::time::timeout(limit, Box::pin(test(ns)))
                .await
                .with_context(|| format!("the test took longer than {} s", limit.as_secs()));
            let restored = found.restore().await.context("restoring the installation");
            outcome.and_then(|outcome| outcome).and(restored)
        },
    )
}

fn alone(
    name: &str,
    injection: Injection,
    limit: Duration,
    test: impl AsyncFnOnce(&TestNamespace) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let _alone = CONTROL_PLANE
        .write()
        .unwrap_or_else(PoisonError::into_inner);
    block_on(name, injection, limit, async |ns: &TestNamespace| {
        let outcome = test(ns).await;
        let settled = control_plane::settled(&ns.client).await;
        outcome.and(settled)
    })
}

fn block_on(
    name: &str,
    injection: Injection,
    limit: Duration,
    test: impl AsyncFnOnce(&TestNamespace) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let client = connect().await?;
        let ns = TestNamespace::make(client, name, injection).await?;
        let limited = async {
            tokio::time::timeout(limit, test(&ns))
                .await
                .with_context(|| format!("the test took longer than {} s", limit.as_secs()))?
        };
        let outcome = limited.await;
        if outcome.is_err() {
            diagnose::print(&ns).await;
        }
        let removed = ns.remove().await;
        outcome.and(removed)
    })
}
