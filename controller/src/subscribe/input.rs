//! Parses the messages of proxies. A message that cannot be parsed ends the stream with a status
//! that names the error.

use std::net::SocketAddr;
use std::time::Duration;

use tonic::{Code, Status};
use weft_api::proto::{self, proxy_message::Kind};
use weft_ir::ResourceKey;

use crate::identity::pod::PodMismatch;

/// The maximum number of characters of a proxy's text in a log line or a status.
const MAX_PEER_TEXT: usize = 256;

/// The first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub namespace: String,
    pub pod: String,
    pub version: String,
    pub held: Vec<(ResourceKey, u64)>,
    /// Keys that this controller does not know, to be removed by the proxy.
    pub unknown: Vec<String>,
}

/// Every later message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    Watch(SocketAddr),
    Unwatch(SocketAddr),
    Ack {
        nonce: u64,
        /// Key and reason.
        refused: Vec<(String, String)>,
    },
    /// The proxy's pod terminates: other proxies are to stop sending to it.
    Withdraw,
    /// The root of the proxy's certificate, DER.
    Certificate(Vec<u8>),
}

/// Why the controller ends a stream.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StreamError {
    #[error("the connection has no client certificate of the mesh")]
    NoCertificate,
    #[error("the first message must be Hello, and must come within {} s", .0.as_secs())]
    NoHello(Duration),
    #[error("Hello was sent twice; it must be the first message only")]
    SecondHello,
    #[error(
        "the message is of a kind that this controller does not know: the proxy may be newer than \
         the controller"
    )]
    UnknownKind,
    #[error("{0:?} is not an address of the form ip:port")]
    Address(String),
    #[error("the stream watches more than {0} addresses")]
    TooManyWatches(usize),
    #[error("a newer stream of this pod replaces this one: {0} at most")]
    Replaced(usize),
    #[error("the client certificate has expired: connect again with a new one")]
    CertificateEnded,
    #[error("pod {0} does not exist any more")]
    PodGone(String),
    #[error("the stream has reached its maximum age: connect again, to any replica")]
    Aged,
    #[error("nonce {0} was never sent")]
    Nonce(u64),
    #[error("{refused} resources are rejected of an update with {sent}")]
    TooManyRefusals { refused: usize, sent: usize },
    #[error("an update was acknowledged before it was read")]
    UnreadAck,
    #[error(transparent)]
    Pod(#[from] PodMismatch),
    #[error("the controller is stopping: connect again")]
    Stopping,
    #[error("the message cannot be decoded: {0}")]
    Unreadable(String),
}

impl StreamError {
    fn code(&self) -> Code {
        match self {
            Self::NoCertificate | Self::CertificateEnded => Code::Unauthenticated,
            Self::TooManyWatches(_) => Code::ResourceExhausted,
            Self::Replaced(_) => Code::Aborted,
            Self::Pod(PodMismatch::Unknown(_)) | Self::PodGone(_) => Code::NotFound,
            Self::Pod(mismatch) => mismatch.code(),
            Self::UnknownKind => Code::Unimplemented,
            Self::Stopping | Self::Aged => Code::Unavailable,
            Self::NoHello(_)
            | Self::SecondHello
            | Self::Address(_)
            | Self::Nonce(_)
            | Self::TooManyRefusals { .. }
            | Self::UnreadAck
            | Self::Unreadable(_) => Code::InvalidArgument,
        }
    }

    /// Returns true if the proxy violated the protocol or its rights, rather than came at a bad
    /// time.
    pub fn is_fault(&self) -> bool {
        match self {
            Self::Stopping
            | Self::Aged
            | Self::CertificateEnded
            | Self::PodGone(_)
            | Self::Replaced(_) => false,
            Self::Pod(mismatch) => mismatch.code() == Code::PermissionDenied,
            _ => true,
        }
    }
}

impl From<StreamError> for Status {
    fn from(error: StreamError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// Parses the first message of a stream, which had to come within `limit`.
pub fn hello(message: Option<proto::ProxyMessage>, limit: Duration) -> Result<Hello, StreamError> {
    let Some(Kind::Hello(hello)) = message.and_then(|message| message.kind) else {
        return Err(StreamError::NoHello(limit));
    };
    let mut held = Vec::with_capacity(hello.held.len());
    let mut unknown = Vec::new();
    for proto::Held { key, version } in hello.held {
        match key.parse::<ResourceKey>() {
            Ok(key) => held.push((key, version)),
            Err(_) => unknown.push(key),
        }
    }
    Ok(Hello {
        namespace: hello.namespace,
        pod: hello.pod,
        version: clip(&hello.version),
        held,
        unknown,
    })
}

/// Parses a later message.
pub fn input(message: proto::ProxyMessage) -> Result<Input, StreamError> {
    match message.kind {
        None => Err(StreamError::UnknownKind),
        Some(Kind::Hello(_)) => Err(StreamError::SecondHello),
        Some(Kind::Watch(watch)) => Ok(Input::Watch(address(&watch.address)?)),
        Some(Kind::Unwatch(unwatch)) => Ok(Input::Unwatch(address(&unwatch.address)?)),
        Some(Kind::Withdraw(_)) => Ok(Input::Withdraw),
        Some(Kind::Certificate(certificate)) => Ok(Input::Certificate(certificate.root.to_vec())),
        Some(Kind::Ack(ack)) => {
            let refused = ack.refused.into_iter();
            Ok(Input::Ack {
                nonce: ack.nonce,
                refused: refused
                    .map(|refused| (refused.key, clip(&refused.reason)))
                    .collect(),
            })
        }
    }
}

/// Parses an address; an IPv4-mapped IPv6 address becomes IPv4, as everywhere in the mesh.
fn address(text: &str) -> Result<SocketAddr, StreamError> {
    let address: SocketAddr = text.parse().map_err(|_| StreamError::Address(clip(text)))?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

fn clip(text: &str) -> String {
    text.chars().take(MAX_PEER_TEXT).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn message(kind: Kind) -> proto::ProxyMessage {
        proto::ProxyMessage { kind: Some(kind) }
    }

    fn watch(address: &str) -> proto::ProxyMessage {
        let address = address.to_owned();
        message(Kind::Watch(proto::Watch { address }))
    }

    #[test]
    fn hello_separates_known_and_unknown_keys() {
        let held = |key: &str, version| proto::Held {
            key: key.to_owned(),
            version,
        };
        let hello = hello(
            Some(message(Kind::Hello(proto::Hello {
                namespace: "shop".into(),
                pod: "web-0".into(),
                version: "v".repeat(10_000),
                held: vec![held("workload", 4), held("policy/x", 5)],
            }))),
            LIMIT,
        )
        .unwrap();
        assert_eq!(hello.held, [(ResourceKey::Workload, 4)]);
        assert_eq!(hello.unknown, ["policy/x"]);
        assert_eq!(hello.version.len(), MAX_PEER_TEXT);
    }

    #[test]
    fn first_message_must_be_hello() {
        for first in [
            None,
            Some(watch("10.0.0.1:80")),
            Some(proto::ProxyMessage { kind: None }),
        ] {
            assert_eq!(hello(first, LIMIT), Err(StreamError::NoHello(LIMIT)));
        }
        let again = message(Kind::Hello(proto::Hello::default()));
        assert_eq!(input(again), Err(StreamError::SecondHello));
    }

    #[test]
    fn mapped_addresses_become_ipv4() {
        let expected = Input::Watch("10.0.0.1:80".parse().unwrap());
        assert_eq!(input(watch("10.0.0.1:80")), Ok(expected.clone()));
        assert_eq!(input(watch("[::ffff:10.0.0.1]:80")), Ok(expected));
        for garbage in ["", "10.0.0.1", "reviews:80", "10.0.0.1:99999"] {
            assert_eq!(
                input(watch(garbage)),
                Err(StreamError::Address(garbage.into()))
            );
        }
    }

    #[test]
    fn errors_have_their_status_codes() {
        let code = |error: StreamError| Status::from(error).code();
        assert_eq!(
            code(input(proto::ProxyMessage { kind: None }).unwrap_err()),
            Code::Unimplemented
        );
        assert_eq!(code(StreamError::Stopping), Code::Unavailable);
        assert_eq!(code(StreamError::NoCertificate), Code::Unauthenticated);
        assert_eq!(
            code(StreamError::TooManyWatches(1)),
            Code::ResourceExhausted
        );
    }
}
