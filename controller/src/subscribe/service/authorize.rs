//! Whether a proxy may have a stream, and for how long.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Streaming;
use weft_api::proto::ProxyMessage;
use weft_ir::Identity;

use super::super::input::{self, Hello, StreamError};
use super::Subscriptions;
use super::messages::undecodable;
use crate::identity::Proven;
use crate::identity::pod::{Claim, PodCheck, other_account};
use crate::watch::ObjectKey;

impl Subscriptions {
    pub(super) async fn hello(
        &self,
        incoming: &mut Streaming<ProxyMessage>,
    ) -> Result<Hello, StreamError> {
        let limit = self.limits.hello;
        let first = timeout(limit, incoming.message()).await;
        let first = first.map_err(|_| StreamError::NoHello(limit))?;
        input::hello(first.map_err(|error| undecodable(&error))?, limit)
    }

    /// Returns the UID of the pod, if the certificate is of its account. Waits for a pod that the
    /// watch does not show yet.
    pub(super) async fn authorize(
        &self,
        account: &Identity,
        from: IpAddr,
        hello: &Hello,
    ) -> Result<Arc<str>, StreamError> {
        if account.namespace() != hello.namespace {
            let pod = format!("{}/{}", hello.namespace, hello.pod);
            return Err(other_account(account, pod).into());
        }
        let claim = Claim {
            namespace: &hello.namespace,
            pod: &hello.pod,
            uid: None,
            node: None,
            account: Some(account),
            address: from,
        };
        let check = PodCheck {
            snapshots: self.snapshots.clone(),
            address: self.limits.verify_address,
            max_wait: self.limits.pod,
        };
        Ok(check.confirm(&claim).await?)
    }

    /// Resolves when a correct stream must end: by its age, its certificate or its pod.
    pub(super) async fn end_of_life(
        &self,
        peer: &Proven,
        pod: &ObjectKey,
        uid: &Arc<str>,
    ) -> StreamError {
        let age = self.limits.age.mul_f64(0.5 + fastrand::f64() / 2.0);
        tokio::select! {
            () = sleep(age) => StreamError::Aged,
            () = peer.expired() => StreamError::CertificateEnded,
            () = self.gone(pod, uid) => StreamError::PodGone(pod.to_string()),
        }
    }

    /// Resolves when the pod has been absent for as long as the watch may take to show it.
    async fn gone(&self, pod: &ObjectKey, uid: &Arc<str>) {
        let mut snapshots = self.snapshots.clone();
        let mut since = None;
        loop {
            let exists = snapshots
                .borrow_and_update()
                .as_ref()
                .is_none_or(|snapshot| {
                    let found = snapshot.encoder.mesh().pod(&pod.namespace, &pod.name);
                    found.is_some_and(|found| found.uid == uid)
                });
            since = match since {
                Some(since) if !exists => Some(since),
                _ => (!exists).then(Instant::now),
            };
            let end = since.unwrap_or_else(Instant::now) + self.limits.pod;
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() {
                    // The controller is stopping, which ends the stream elsewhere.
                    std::future::pending::<()>().await;
                },
                () = sleep_until(end), if since.is_some() => return,
            }
        }
    }
}
