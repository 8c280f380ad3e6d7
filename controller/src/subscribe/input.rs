//! Messages of proxies, parsed: what does not parse ends the stream with a status that says what was wrong.

use std::net::SocketAddr;

use tonic::{Code, Status};
use weft_api::proto::{self, proxy_message::Kind};
use weft_ir::ResourceKey;

use crate::identity::pod::Doubt;

/// Characters of a proxy's own words that are repeated in a log line or a status.
const REPEATED: usize = 256;

/// The first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub namespace: String,
    pub pod: String,
    pub version: String,
    pub held: Vec<(ResourceKey, u64)>,
    /// Keys that this controller does not know, to be dropped by the proxy.
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
    /// The proxy's own pod is to be sent nothing any longer.
    Withdraw,
    /// The root of the proxy's certificate, DER.
    Certificate(Vec<u8>),
}

/// Why a stream is ended.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    #[error("the connection has no client certificate of the mesh")]
    NoCertificate,
    #[error("the first message must be Hello, and came within {0} s")]
    NoHello(u64),
    #[error("Hello may be said once, at the beginning")]
    SecondHello,
    #[error(
        "message of a kind that this controller does not know: the proxy may be newer than the controller"
    )]
    UnknownKind,
    #[error("{0:?} is no address of the form ip:port")]
    Address(String),
    #[error("more than {0} addresses are watched on this stream")]
    TooManyWatches(usize),
    #[error("a newer stream of this pod takes the place of this one: {0} at most")]
    Replaced(usize),
    #[error("the client's certificate has ended: connect again with a new one")]
    CertificateEnded,
    #[error("pod {0} is gone")]
    PodGone(String),
    #[error("the stream has lasted long enough: connect again, to any replica")]
    Aged,
    #[error("nonce {0} was never sent")]
    Nonce(u64),
    #[error("{refused} resources are refused of an update that has {sent}")]
    TooManyRefusals { refused: usize, sent: usize },
    #[error("an update was acknowledged before it was read")]
    UnreadAck,
    #[error(transparent)]
    Pod(#[from] Doubt),
    #[error("the controller is stopping: connect again")]
    Stopping,
    #[error("unreadable message: {0}")]
    Unreadable(String),
}

impl Refusal {
    fn code(&self) -> Code {
        match self {
            Self::NoCertificate | Self::CertificateEnded => Code::Unauthenticated,
            Self::TooManyWatches(_) => Code::ResourceExhausted,
            Self::Replaced(_) => Code::Aborted,
            Self::Pod(Doubt::Unknown(_)) | Self::PodGone(_) => Code::NotFound,
            Self::Pod(doubt) => doubt.code(),
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

    /// Whether the proxy did something wrong, rather than came at a bad time.
    pub fn is_fault(&self) -> bool {
        match self {
            Self::Stopping
            | Self::Aged
            | Self::CertificateEnded
            | Self::PodGone(_)
            | Self::Replaced(_) => false,
            Self::Pod(doubt) => doubt.code() == Code::PermissionDenied,
            _ => true,
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}

/// The first message of a stream, which was given `seconds` to come.
pub fn hello(message: Option<proto::ProxyMessage>, seconds: u64) -> Result<Hello, Refusal> {
    let Some(Kind::Hello(hello)) = message.and_then(|message| message.kind) else {
        return Err(Refusal::NoHello(seconds));
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
        version: shortened(&hello.version),
        held,
        unknown,
    })
}

/// A message after the first.
pub fn input(message: proto::ProxyMessage) -> Result<Input, Refusal> {
    match message.kind {
        None => Err(Refusal::UnknownKind),
        Some(Kind::Hello(_)) => Err(Refusal::SecondHello),
        Some(Kind::Watch(watch)) => Ok(Input::Watch(address(&watch.address)?)),
        Some(Kind::Unwatch(unwatch)) => Ok(Input::Unwatch(address(&unwatch.address)?)),
        Some(Kind::Withdraw(_)) => Ok(Input::Withdraw),
        Some(Kind::Certificate(certificate)) => Ok(Input::Certificate(certificate.root.to_vec())),
        Some(Kind::Ack(ack)) => {
            let refused = ack.refused.into_iter();
            Ok(Input::Ack {
                nonce: ack.nonce,
                refused: refused
                    .map(|refused| (refused.key, shortened(&refused.reason)))
                    .collect(),
            })
        }
    }
}

/// An IPv4 address inside IPv6 counts as IPv4, as everywhere in the mesh.
fn address(text: &str) -> Result<SocketAddr, Refusal> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| Refusal::Address(shortened(text)))?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

fn shortened(text: &str) -> String {
    text.chars().take(REPEATED).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn message(kind: Kind) -> proto::ProxyMessage {
        proto::ProxyMessage { kind: Some(kind) }
    }

    fn watch(address: &str) -> proto::ProxyMessage {
        let address = address.to_owned();
        message(Kind::Watch(proto::Watch { address }))
    }

    #[test]
    fn hello_keeps_what_is_known_and_names_what_is_not() {
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
            10,
        )
        .unwrap();
        assert_eq!(hello.held, [(ResourceKey::Workload, 4)]);
        assert_eq!(hello.unknown, ["policy/x"]);
        assert_eq!(hello.version.len(), REPEATED);
    }

    #[test]
    fn anything_but_hello_at_first_is_refused() {
        for first in [
            None,
            Some(watch("10.0.0.1:80")),
            Some(proto::ProxyMessage { kind: None }),
        ] {
            assert_eq!(hello(first, 10), Err(Refusal::NoHello(10)));
        }
        let again = message(Kind::Hello(proto::Hello::default()));
        assert_eq!(input(again), Err(Refusal::SecondHello));
    }

    #[test]
    fn addresses_are_parsed_and_unmapped() {
        let expected = Input::Watch("10.0.0.1:80".parse().unwrap());
        assert_eq!(input(watch("10.0.0.1:80")), Ok(expected.clone()));
        assert_eq!(input(watch("[::ffff:10.0.0.1]:80")), Ok(expected));
        for garbage in ["", "10.0.0.1", "reviews:80", "10.0.0.1:99999"] {
            assert_eq!(input(watch(garbage)), Err(Refusal::Address(garbage.into())));
        }
    }

    #[test]
    fn statuses_say_what_to_do() {
        let code = |refusal: Refusal| Status::from(refusal).code();
        assert_eq!(
            code(input(proto::ProxyMessage { kind: None }).unwrap_err()),
            Code::Unimplemented
        );
        assert_eq!(code(Refusal::Stopping), Code::Unavailable);
        assert_eq!(code(Refusal::NoCertificate), Code::Unauthenticated);
        assert_eq!(code(Refusal::TooManyWatches(1)), Code::ResourceExhausted);
    }
}
