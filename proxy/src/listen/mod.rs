//! The listeners: what an accepted connection speaks, whether it is allowed, and where it goes.

use std::io;
use std::time::Duration;

use weft_ir::IdentityError;

use crate::drain::Shutdown;
use crate::http::runtime::{Proxy, Runtime};
use crate::options::Options;

mod accept;
mod error;
pub mod gateway;
pub mod inbound;
mod l4;
pub mod outbound;
mod plaintext_policy;
pub mod udp;

pub use accept::{Listener, OriginalDst};
pub(crate) use error::ConnectionError;

/// How long a silent client is waited for before the upstream is opened, in case the server speaks
/// first.
const SERVER_FIRST_DELAY: Duration = Duration::from_millis(5);
/// The same for clients of a permissive pod. Only clients without a proxy are silent here, so it
/// may be longer: the ClientHello of a proxy that got no processor comes late.
const INBOUND_SERVER_FIRST_DELAY: Duration = Duration::from_millis(12);
/// How long the first bytes may take to show a known protocol.
const DETECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The sockets of both directions.
pub struct Listeners {
    pub outbound: Listener,
    pub inbound: Listener,
}

impl Listeners {
    /// Listens at the options' addresses, for redirected connections.
    pub fn bind(options: &Options) -> io::Result<Self> {
        Ok(Self {
            outbound: Listener::bind(options.outbound, OriginalDst::Redirected)?,
            inbound: Listener::bind(options.inbound, OriginalDst::Redirected)?,
        })
    }
}

/// Serves both directions until the drain begins; connections that are open then go on. Errors when
/// the proxy's own name is no identity.
pub async fn run(
    proxy: &Proxy,
    shutdown: Shutdown,
    listeners: Listeners,
) -> Result<(), IdentityError> {
    let runtime = Runtime::new(proxy, shutdown)?;
    let both = async {
        tokio::join!(
            outbound::listen(runtime.clone(), listeners.outbound),
            inbound::listen(runtime.clone(), listeners.inbound)
        )
    };
    tokio::select! {
        _ = both => {}
        () = runtime.housekeeping() => {}
    }
    Ok(())
}
