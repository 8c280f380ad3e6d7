//! One token: its form, its signature and its claims.
//!
//! Source: RFC 7515 (compact serialization, `kid`, `crit`), RFC 7518 and 8037 (algorithms), RFC
//! 7519 (`iss`, `aud`, `exp`, `nbf`), RFC 8725 (the algorithm is the key's, never the token's
//! choice).

use std::sync::Arc;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};
use weft_ir::{Claims, JsonWebKey, JwtProvider, KeyMaterial, TokenAlgorithm};

use super::Verified;

/// Why a token is refused. The words go to the client, and so name nothing of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the request has no token")]
    Absent,
    #[error("the request has more than one token")]
    Several,
    #[error("the token is too long")]
    TooLong,
    #[error("the token is malformed")]
    Malformed,
    #[error("the algorithm of the token is not supported")]
    Algorithm,
    #[error("the token has critical extensions")]
    Critical,
    #[error("the issuer of the token is not accepted")]
    Issuer,
    #[error("no key is known for the token")]
    Key,
    #[error("the signature of the token is not valid")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token is for another audience")]
    Audience,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Whatever it lists would have to be understood.
    crit: Option<Value>,
}

/// Verifies a token by the provider that its issuer names. `issuers`: those of the providers.
pub(super) fn verify(
    token: &str,
    providers: &[JwtProvider],
    issuers: &[Arc<str>],
    now: u64,
) -> Result<Verified, TokenError> {
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
    let header: Header = parse(header)?;
    if header.crit.is_some() {
        return Err(TokenError::Critical);
    }
    let algorithm = TokenAlgorithm::of_name(&header.alg).ok_or(TokenError::Algorithm)?;
    let claims: Map<String, Value> = parse(payload)?;
    let named = claims.get("iss").and_then(Value::as_str);
    let issuer = named.ok_or(TokenError::Issuer)?;
    let mut all = providers.iter().zip(issuers).enumerate();
    let (position, (provider, issuer)) = all
        .find(|(_, (of, _))| of.issuer == issuer)
        .ok_or(TokenError::Issuer)?;
    let key = key(&provider.keys, algorithm, header.kid.as_deref())?;
    let signature = decode(signature)?;
    if !is_signed(key, algorithm, signed.as_bytes(), &signature) {
        return Err(TokenError::Signature);
    }
    let expires = check_times(&claims, u64::from(provider.clock_skew), now)?;
    check_audience(&claims, &provider.audiences)?;
    Ok(Verified {
        claims: Arc::new(Claims::new(issuer.clone(), claims)),
        provider: position,
        expires,
    })
}

fn decode(text: &str) -> Result<Vec<u8>, TokenError> {
    let decoded = URL_SAFE_NO_PAD.decode(text);
    decoded.map_err(|_| TokenError::Malformed)
}

fn parse<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, TokenError> {
    let json = decode(text)?;
    serde_json::from_slice(&json).map_err(|_| TokenError::Malformed)
}

/// Returns the one key that can have signed the token: a token without `kid` needs one that is the
/// only one of its type, so that no token costs more than one check.
fn key<'k>(
    keys: &'k [JsonWebKey],
    algorithm: TokenAlgorithm,
    id: Option<&str>,
) -> Result<&'k JsonWebKey, TokenError> {
    let mut fitting = keys.iter().filter(|key| {
        let is_named = id.is_none_or(|id| key.id.as_deref() == Some(id));
        is_named && key.verifies(algorithm)
    });
    match (fitting.next(), fitting.next()) {
        (Some(key), None) => Ok(key),
        _ => Err(TokenError::Key),
    }
}

fn is_signed(key: &JsonWebKey, algorithm: TokenAlgorithm, signed: &[u8], signature: &[u8]) -> bool {
    let by = |how: &'static dyn VerificationAlgorithm, key: &[u8]| {
        let key = UnparsedPublicKey::new(how, key);
        key.verify(signed, signature).is_ok()
    };
    match &key.material {
        KeyMaterial::Rsa { modulus, exponent } => {
            let key = RsaPublicKeyComponents {
                n: modulus,
                e: exponent,
            };
            let how = rsa(algorithm);
            how.is_some_and(|how| key.verify(how, signed, signature).is_ok())
        }
        KeyMaterial::P256(point) => by(&ECDSA_P256_SHA256_FIXED, point),
        KeyMaterial::P384(point) => by(&ECDSA_P384_SHA384_FIXED, point),
        KeyMaterial::Ed25519(point) => by(&ED25519, point),
    }
}

fn rsa(algorithm: TokenAlgorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        TokenAlgorithm::Rs256 => Some(&RSA_PKCS1_2048_8192_SHA256),
        TokenAlgorithm::Rs384 => Some(&RSA_PKCS1_2048_8192_SHA384),
        TokenAlgorithm::Rs512 => Some(&RSA_PKCS1_2048_8192_SHA512),
        TokenAlgorithm::Ps256 => Some(&RSA_PSS_2048_8192_SHA256),
        TokenAlgorithm::Ps384 => Some(&RSA_PSS_2048_8192_SHA384),
        TokenAlgorithm::Ps512 => Some(&RSA_PSS_2048_8192_SHA512),
        TokenAlgorithm::Es256 | TokenAlgorithm::Es384 | TokenAlgorithm::EdDsa => None,
    }
}

/// Returns the second from which the token is no longer valid. One without `exp` is refused: it
/// would never end.
fn check_times(claims: &Map<String, Value>, skew: u64, now: u64) -> Result<u64, TokenError> {
    let expires = date(claims.get("exp").ok_or(TokenError::Malformed)?)?;
    let expires = expires.saturating_add(skew);
    if now >= expires {
        return Err(TokenError::Expired);
    }
    if let Some(begin) = claims.get("nbf")
        && now.saturating_add(skew) < date(begin)?
    {
        return Err(TokenError::NotYetValid);
    }
    Ok(expires)
}

/// `NumericDate` may have a fraction.
fn date(value: &Value) -> Result<u64, TokenError> {
    if let Some(seconds) = value.as_u64() {
        return Ok(seconds);
    }
    match value.as_f64() {
        // Saturates.
        Some(seconds) if seconds >= 0.0 => Ok(seconds as u64),
        _ => Err(TokenError::Malformed),
    }
}

fn check_audience(claims: &Map<String, Value>, wanted: &[String]) -> Result<(), TokenError> {
    let is_wanted = |value: &Value| {
        let text = value.as_str();
        text.is_some_and(|text| wanted.iter().any(|of| of == text))
    };
    let found = match claims.get("aud") {
        _ if wanted.is_empty() => true,
        Some(Value::Array(all)) => all.iter().any(is_wanted),
        Some(one) => is_wanted(one),
        None => false,
    };
    found.then_some(()).ok_or(TokenError::Audience)
}
