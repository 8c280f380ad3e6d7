//! The drain: stop being ready, let connections finish, end when all have or at the bound.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The drain of the process; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    connections: TaskTracker,
    peers: PeerConnections,
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// Resolves when connections are to finish their requests and take no new ones.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Returns the token that the drain cancels.
    pub fn token(&self) -> &CancellationToken {
        &self.draining
    }

    /// Returns the watch of connections that finish with the process alone.
    pub fn watch(&self) -> DrainWatch {
        DrainWatch {
            process: self.clone(),
            listener: None,
        }
    }

    /// Returns the watch of connections that finish with the process or with their listener: they
    /// have `bound` for it then.
    pub fn watch_with(&self, listener: CancellationToken, bound: Duration) -> DrainWatch {
        DrainWatch {
            process: self.clone(),
            listener: Some((listener, bound)),
        }
    }

    /// Returns the connections of proxies that send to this pod.
    pub fn peers(&self) -> &PeerConnections {
        &self.peers
    }

    /// Returns the watch of a connection of HTTP/2 from a proxy of the mesh: it finishes with the
    /// process, or when the peers are drained, which waits as long as the token lives. A connection
    /// that comes later finishes with the process alone: its proxy has nowhere else to go, or is
    /// late.
    pub fn watch_for_peer(&self) -> (DrainWatch, Option<TaskTrackerToken>) {
        let PeerConnections { draining, open } = &self.peers;
        if draining.is_cancelled() {
            return (self.watch(), None);
        }
        let closing = self.watch_with(draining.clone(), Duration::MAX);
        (closing, Some(open.token()))
    }

    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Spawns a connection's task; the drain waits for its end.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.connections.spawn(task);
    }

    /// Returns the number of connections that have not ended.
    pub fn open(&self) -> usize {
        self.connections.len()
    }

    /// Begins the drain and waits for its end, for `bound` at most. Returns the number of
    /// connections that are cut.
    pub async fn drain(&self, bound: Duration) -> usize {
        self.draining.cancel();
        self.connections.close();
        // Passing the bound is no error: what is left is counted.
        let _ = tokio::time::timeout(bound, self.connections.wait()).await;
        self.connections.len()
    }
}

/// The connections of HTTP/2 on which proxies of the mesh send requests to this pod.
#[derive(Clone, Debug, Default)]
pub struct PeerConnections {
    draining: CancellationToken,
    open: TaskTracker,
}

impl PeerConnections {
    /// Tells the peers to finish, and waits until they have: what they sent has been answered, and
    /// what had not left them is not lost (GOAWAY in two steps: RFC 9113, 6.8).
    pub async fn drain(&self) {
        self.draining.cancel();
        self.open.close();
        self.open.wait().await;
    }
}

/// When a connection is to finish its requests and take no new ones.
#[derive(Clone, Debug)]
pub struct DrainWatch {
    process: Shutdown,
    /// The token of the listener, and how long its connections may go on without it.
    listener: Option<(CancellationToken, Duration)>,
}

impl DrainWatch {
    /// Resolves once it has begun.
    pub async fn started(&self) {
        match &self.listener {
            None => self.process.draining().await,
            Some((listener, _)) => tokio::select! {
                () = self.process.draining() => {}
                () = listener.cancelled() => {}
            },
        }
    }

    /// Spawns what is left to do after the connection's own task; the drain waits for that too.
    /// Without a runtime nothing is left to do.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        if let Ok(runtime) = Handle::try_current() {
            self.process.connections.spawn_on(task, &runtime);
        }
    }

    /// Resolves once the process drains.
    pub async fn draining(&self) {
        self.process.draining().await;
    }

    /// Resolves once the time of a connection of a removed listener is over; never without a
    /// listener. The bound of the process's own drain is the end of the process.
    pub async fn deadline(&self) {
        match &self.listener {
            None => std::future::pending().await,
            Some((listener, bound)) => {
                listener.cancelled().await;
                tokio::time::sleep(*bound).await;
            }
        }
    }
}

/// Waits for SIGTERM or SIGINT.
pub async fn terminated() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn drain_ends_with_last_connection() {
        let shutdown = Shutdown::new();
        let inner = shutdown.clone();
        shutdown.spawn(async move {
            inner.draining().await;
            tokio::time::sleep(Duration::from_secs(3)).await;
        });
        let begun = tokio::time::Instant::now();
        assert_eq!(shutdown.drain(Duration::from_secs(25)).await, 0);
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn drain_ends_at_its_time_limit() {
        let shutdown = Shutdown::new();
        shutdown.spawn(std::future::pending::<()>());
        assert_eq!(shutdown.drain(Duration::from_secs(25)).await, 1);
    }
}
