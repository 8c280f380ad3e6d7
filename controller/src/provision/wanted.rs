//! What every Gateway is to run on by the cluster's present state, as the provisioner's watches
//! have it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_translate::Provision;

use crate::watch::{World, burst};

/// The latest; `None` until every kind has completed its initial list, so that no object is deleted
/// because its Gateway has not been seen yet.
pub type Provisions = watch::Receiver<Option<Arc<Vec<Provision>>>>;

/// Derives the provisions after each burst of changes, until `stop`.
pub async fn publish(
    world: Arc<World>,
    controller_name: &'static str,
    to: watch::Sender<Option<Arc<Vec<Provision>>>>,
    stop: CancellationToken,
) {
    let mut changes = world.changes.objects.subscribe();
    loop {
        if world.listed() {
            let objects = world.objects();
            let derive = move || weft_translate::provisions(&objects, controller_name);
            match tokio::task::spawn_blocking(derive).await {
                Ok(provisions) => drop(to.send_replace(Some(Arc::new(provisions)))),
                Err(_) => tracing::error!(
                    "translation of Gateways panicked: the last translation stays in force"
                ),
            }
        }
        tokio::select! {
            () = burst(&mut changes) => {}
            () = stop.cancelled() => return,
        }
    }
}
