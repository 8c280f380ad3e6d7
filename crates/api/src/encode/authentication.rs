//! Encodes the tokens that a target accepts.

use weft_ir::{
    Authentication, ClaimHeader, ClaimMatch, JsonWebKey, JwtProvider, KeyMaterial, TokenLocation,
    TokenMatch,
};

use crate::proto;

pub(super) fn authentication(of: &Authentication) -> proto::Authentication {
    let Authentication {
        required,
        providers,
    } = of;
    proto::Authentication {
        required: *required,
        providers: providers.iter().map(provider).collect(),
    }
}

fn provider(of: &JwtProvider) -> proto::JwtProvider {
    let JwtProvider {
        name,
        issuer,
        audiences,
        keys,
        locations,
        claim_headers,
        forward,
        clock_skew,
    } = of;
    let claim_header = |ClaimHeader { claim, header }: &ClaimHeader| proto::ClaimHeader {
        claim: claim.clone(),
        header: header.to_string(),
    };
    proto::JwtProvider {
        name: name.clone(),
        issuer: issuer.clone(),
        audiences: audiences.clone(),
        keys: keys.iter().map(key).collect(),
        locations: locations.iter().map(location).collect(),
        claim_headers: claim_headers.iter().map(claim_header).collect(),
        forward: *forward,
        clock_skew_seconds: u32::from(*clock_skew),
    }
}

fn key(of: &JsonWebKey) -> proto::JsonWebKey {
    use proto::json_web_key::Material;
    let JsonWebKey {
        id,
        algorithm,
        material,
    } = of;
    proto::JsonWebKey {
        id: id.clone().unwrap_or_default(),
        algorithm: algorithm.map_or("", |of| of.as_str()).to_owned(),
        material: Some(match material {
            KeyMaterial::Rsa { modulus, exponent } => Material::Rsa(proto::RsaKey {
                modulus: modulus.clone().into(),
                exponent: exponent.clone().into(),
            }),
            KeyMaterial::P256(point) => Material::P256(point.clone().into()),
            KeyMaterial::P384(point) => Material::P384(point.clone().into()),
            KeyMaterial::Ed25519(point) => Material::Ed25519(point.clone().into()),
        }),
    }
}

fn location(of: &TokenLocation) -> proto::TokenLocation {
    use proto::token_location::Kind;
    let kind = match of {
        TokenLocation::Header { name, prefix } => Kind::Header(proto::TokenHeader {
            name: name.to_string(),
            prefix: prefix.clone(),
        }),
        TokenLocation::Query(name) => Kind::Query(name.clone()),
        TokenLocation::Cookie(name) => Kind::Cookie(name.clone()),
    };
    proto::TokenLocation { kind: Some(kind) }
}

pub(super) fn token_match(of: &TokenMatch) -> proto::TokenMatch {
    let TokenMatch {
        issuer,
        subject,
        claims,
    } = of;
    let claim = |ClaimMatch { name, values }: &ClaimMatch| proto::ClaimMatch {
        name: name.clone(),
        values: values.clone(),
    };
    proto::TokenMatch {
        issuer: issuer.clone(),
        subject: subject.clone(),
        claims: claims.iter().map(claim).collect(),
    }
}
