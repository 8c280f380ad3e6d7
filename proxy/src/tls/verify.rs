//! Verification of a peer's certificate: chain, key usage and identity.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName, Error};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use weft_ir::{Identity, TrustDomain};

use super::credentials::{CurrentCredentials, Roots};
use super::peer::{PeerError, peer_identity};

/// The methods of a verifier that check the signatures of handshakes, with the algorithms in its
/// field `algorithms`: for TLS 1.3 only, or for TLS 1.2 as well.
macro_rules! signature_checks {
    (tls13) => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &::rustls_pki_types::CertificateDer<'_>,
            _signed: &::rustls::DigitallySignedStruct,
        ) -> Result<::rustls::client::danger::HandshakeSignatureValid, ::rustls::Error> {
            Err(::rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
        }

        $crate::tls::verify::signature_checks!(@tls13);
    };
    (tls12, tls13) => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &::rustls_pki_types::CertificateDer<'_>,
            signed: &::rustls::DigitallySignedStruct,
        ) -> Result<::rustls::client::danger::HandshakeSignatureValid, ::rustls::Error> {
            ::rustls::crypto::verify_tls12_signature(message, cert, signed, &self.algorithms)
        }

        $crate::tls::verify::signature_checks!(@tls13);
    };
    (@tls13) => {
        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &::rustls_pki_types::CertificateDer<'_>,
            signed: &::rustls::DigitallySignedStruct,
        ) -> Result<::rustls::client::danger::HandshakeSignatureValid, ::rustls::Error> {
            ::rustls::crypto::verify_tls13_signature(message, cert, signed, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<::rustls::SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

pub(super) use signature_checks;

/// Checks validity, key usage and signatures up to one of `roots`.
pub(super) fn verify_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &Roots,
    now: UnixTime,
    usage: KeyUsage,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), Error> {
    let parsed = EndEntityCert::try_from(leaf).map_err(chain_error)?;
    parsed
        .verify_for_usage(
            algorithms.all,
            &roots.anchors,
            intermediates,
            now,
            usage,
            None,
            None,
        )
        .map_err(chain_error)?;
    Ok(())
}

fn chain_error(error: webpki::Error) -> Error {
    use webpki::Error as E;
    Error::InvalidCertificate(match error {
        E::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        E::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
        other => CertificateError::Other(rustls::OtherError(Arc::new(other))),
    })
}

/// Accepts clients with any identity of the trust domain.
pub(super) struct MeshClients {
    pub(super) current: CurrentCredentials,
    pub(super) trust_domain: TrustDomain,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for MeshClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshClients")
    }
}

impl ClientCertVerifier for MeshClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let current = self.current.load();
        let current = current
            .as_ref()
            .ok_or_else(|| Error::General("no roots yet".to_owned()))?;
        let usage = KeyUsage::client_auth();
        verify_chain(
            leaf,
            intermediates,
            &current.roots,
            now,
            usage,
            &self.algorithms,
        )?;
        let identity = peer_identity(Some(std::slice::from_ref(leaf)))?;
        if *identity.trust_domain() != self.trust_domain {
            return Err(PeerError::TrustDomain(identity).into());
        }
        Ok(ClientCertVerified::assertion())
    }

    signature_checks!(tls13);
}

/// The roots to verify against: those at the time of the handshake, or a fixed set.
pub(super) enum RootsFrom {
    Current(CurrentCredentials),
    Fixed(Arc<Roots>),
}

/// Accepts only a server with the identity `expected`, whatever its name or address.
pub(super) struct ExpectedServer {
    pub(super) roots: RootsFrom,
    pub(super) expected: Identity,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for ExpectedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExpectedServer")
            .field(&self.expected)
            .finish()
    }
}

impl ServerCertVerifier for ExpectedServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = match &self.roots {
            RootsFrom::Fixed(roots) => roots.clone(),
            RootsFrom::Current(current) => match current.load().as_ref() {
                Some(current) => current.roots.clone(),
                None => return Err(Error::General("no roots yet".to_owned())),
            },
        };
        let usage = KeyUsage::server_auth();
        verify_chain(leaf, intermediates, &roots, now, usage, &self.algorithms)?;
        let found = peer_identity(Some(std::slice::from_ref(leaf)))?;
        if found != self.expected {
            let expected = self.expected.clone();
            return Err(PeerError::Unexpected { found, expected }.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    signature_checks!(tls13);
}
