//! Decodes the tokens that a target accepts. Whatever is not known is rejected.

use http::HeaderName;
use weft_ir::{
    Authentication, ClaimHeader, ClaimMatch, JsonWebKey, JwtProvider, KeyMaterial, TokenAlgorithm,
    TokenLocation, TokenMatch,
};

use super::{DecodeError, Decoded, all, invalid};
use crate::proto;

pub(super) fn authentication(wire: proto::Authentication) -> Decoded<Authentication> {
    let proto::Authentication {
        required,
        providers,
    } = wire;
    Ok(Authentication {
        required,
        providers: all(providers, provider)?,
    })
}

fn provider(wire: proto::JwtProvider) -> Decoded<JwtProvider> {
    let proto::JwtProvider {
        name,
        issuer,
        audiences,
        keys,
        locations,
        claim_headers,
        forward,
        clock_skew_seconds,
    } = wire;
    let claim_header = |wire: proto::ClaimHeader| {
        Ok(ClaimHeader {
            claim: wire.claim,
            header: header(&wire.header)?,
        })
    };
    Ok(JwtProvider {
        name,
        issuer,
        audiences,
        keys: all(keys, key)?,
        locations: all(locations, location)?,
        claim_headers: all(claim_headers, claim_header)?,
        forward,
        clock_skew: u16::try_from(clock_skew_seconds)
            .map_err(|error| invalid("provider.clock_skew")(&error))?,
    })
}

fn header(name: &str) -> Decoded<HeaderName> {
    name.parse()
        .map_err(|error: http::header::InvalidHeaderName| invalid("provider.header")(&error))
}

fn key(wire: proto::JsonWebKey) -> Decoded<JsonWebKey> {
    use proto::json_web_key::Material;
    let proto::JsonWebKey {
        id,
        algorithm,
        material,
    } = wire;
    let algorithm = match &*algorithm {
        "" => None,
        name => {
            let unknown = || invalid("key.algorithm")(&name);
            Some(TokenAlgorithm::of_name(name).ok_or_else(unknown)?)
        }
    };
    let material = match material.ok_or(DecodeError::Absent("key.material"))? {
        Material::Rsa(proto::RsaKey { modulus, exponent }) => KeyMaterial::Rsa {
            modulus: modulus.into(),
            exponent: exponent.into(),
        },
        Material::P256(point) => KeyMaterial::P256(point.into()),
        Material::P384(point) => KeyMaterial::P384(point.into()),
        Material::Ed25519(point) => KeyMaterial::Ed25519(point.into()),
    };
    Ok(JsonWebKey {
        id: (!id.is_empty()).then_some(id),
        algorithm,
        material,
    })
}

fn location(wire: proto::TokenLocation) -> Decoded<TokenLocation> {
    use proto::token_location::Kind;
    Ok(
        match wire.kind.ok_or(DecodeError::Absent("provider.location"))? {
            Kind::Header(proto::TokenHeader { name, prefix }) => TokenLocation::Header {
                name: header(&name)?,
                prefix,
            },
            Kind::Query(name) => TokenLocation::Query(name),
            Kind::Cookie(name) => TokenLocation::Cookie(name),
        },
    )
}

pub(super) fn token_match(wire: proto::TokenMatch) -> TokenMatch {
    let proto::TokenMatch {
        issuer,
        subject,
        claims,
    } = wire;
    let claim = |proto::ClaimMatch { name, values }| ClaimMatch { name, values };
    TokenMatch {
        issuer,
        subject,
        claims: claims.into_iter().map(claim).collect(),
    }
}
