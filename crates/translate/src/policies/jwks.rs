//! JSON Web Key Sets: the keys in them that proxies can verify with.
//!
//! Source: RFC 7517 (JWK), RFC 7518 section 6 (RSA and EC keys), RFC 8037 (Ed25519).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;
use weft_ir::{JsonWebKey, KeyMaterial, TokenAlgorithm};

use crate::limits::{JWKS_BYTES, JWKS_KEYS};

/// Bits of the moduli of RSA keys that are used.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// The members that are read. A key without the ones of its type is not usable.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Key {
    kty: String,
    kid: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: String,
    n: String,
    e: String,
    x: String,
    y: String,
}

/// Returns the usable keys of a set. Keys of other types and for other uses are left out: issuers
/// publish them beside those of their tokens. Errors if none is left, or if two cannot be told
/// apart.
pub(super) fn parse(text: &str) -> Result<Vec<JsonWebKey>, String> {
    if text.len() > JWKS_BYTES {
        return Err(format!(
            "the set has {} bytes, and the limit is {JWKS_BYTES}",
            text.len()
        ));
    }
    let set: Set = serde_json::from_str(text)
        .map_err(|_| "it is not a JSON Web Key Set: an object with the list keys".to_owned())?;
    if set.keys.len() > JWKS_KEYS {
        return Err(format!(
            "the set has {} keys, and the limit is {JWKS_KEYS}",
            set.keys.len()
        ));
    }
    let mut keys: Vec<JsonWebKey> = Vec::new();
    let mut unusable = None;
    for (place, value) in set.keys.into_iter().enumerate() {
        match serde_json::from_value(value).map_err(|_| "its members are malformed".to_owned()) {
            Err(why) => unusable = Some((place, why)),
            Ok(key) => match usable(key) {
                Ok(key) => keys.push(key),
                Err(why) => unusable = Some((place, why)),
            },
        }
    }
    let kind = |key: &JsonWebKey| std::mem::discriminant(&key.material);
    for (place, key) in keys.iter().enumerate() {
        let same = |other: &&JsonWebKey| {
            key.id.is_some() && other.id == key.id && kind(other) == kind(key)
        };
        if let Some(other) = keys[..place].iter().find(same) {
            let id = other.id.as_deref().unwrap_or_default();
            return Err(format!("two keys of one type have the kid {id:?}"));
        }
    }
    match (keys.is_empty(), unusable) {
        (false, _) => Ok(keys),
        (true, None) => Err("the set has no key".to_owned()),
        (true, Some((place, why))) => {
            Err(format!("no key of the set is usable; keys[{place}]: {why}"))
        }
    }
}

fn usable(key: Key) -> Result<JsonWebKey, String> {
    let Key {
        kty,
        kid,
        r#use,
        key_ops,
        alg,
        crv,
        n,
        e,
        x,
        y,
    } = key;
    if r#use.is_some_and(|purpose| purpose != "sig")
        || key_ops.is_some_and(|all| !all.iter().any(|of| of == "verify"))
    {
        return Err("it is not for verifying signatures".to_owned());
    }
    let algorithm = match alg {
        None => None,
        Some(name) => match TokenAlgorithm::of_name(&name) {
            None => return Err(format!("alg {:?} is not supported", short(&name))),
            known => known,
        },
    };
    let material = match (&*kty, &*crv) {
        ("RSA", _) => rsa(&n, &e)?,
        ("EC", "P-256") => KeyMaterial::P256(point(&x, &y, 32)?),
        ("EC", "P-384") => KeyMaterial::P384(point(&x, &y, 48)?),
        ("OKP", "Ed25519") => KeyMaterial::Ed25519(bytes(&x, 32)?),
        ("oct", _) => {
            return Err("kty \"oct\" is a shared secret, which is never used".to_owned());
        }
        _ => {
            let (kty, crv) = (short(&kty), short(&crv));
            return Err(format!("kty {kty:?} with crv {crv:?} is not supported"));
        }
    };
    let key = JsonWebKey {
        id: kid,
        algorithm: None,
        material,
    };
    match algorithm {
        Some(of) if !key.verifies(of) => Err(format!("alg {} does not fit kty {kty}", of.as_str())),
        algorithm => Ok(JsonWebKey { algorithm, ..key }),
    }
}

/// The text is of whoever wrote the set.
fn short(text: &str) -> String {
    text.chars().take(32).collect()
}

fn decode(text: &str) -> Result<Vec<u8>, String> {
    URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .map_err(|_| "a member is not base64url".to_owned())
}

fn bytes(text: &str, length: usize) -> Result<Vec<u8>, String> {
    let bytes = decode(text)?;
    match bytes.len() == length {
        true => Ok(bytes),
        false => Err(format!(
            "a coordinate has {} bytes, not {length}",
            bytes.len()
        )),
    }
}

/// The uncompressed form (SEC 1, 2.3.3).
fn point(x: &str, y: &str, length: usize) -> Result<Vec<u8>, String> {
    let mut point = vec![4];
    point.extend(bytes(x, length)?);
    point.extend(bytes(y, length)?);
    Ok(point)
}

fn rsa(n: &str, e: &str) -> Result<KeyMaterial, String> {
    let stripped = |text: &str| -> Result<Vec<u8>, String> {
        let bytes = decode(text)?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Ok(bytes[zeros..].to_vec())
    };
    let (modulus, exponent) = (stripped(n)?, stripped(e)?);
    let first = modulus
        .first()
        .map_or(8, |byte| byte.leading_zeros() as usize);
    let bits = (modulus.len() * 8).saturating_sub(first);
    if !RSA_BITS.contains(&bits) {
        return Err(format!(
            "an RSA key of {bits} bits, and those of {} to {} are used",
            RSA_BITS.start(),
            RSA_BITS.end()
        ));
    }
    if exponent.is_empty() || exponent.len() > 4 {
        return Err("an RSA exponent of no common size".to_owned());
    }
    Ok(KeyMaterial::Rsa { modulus, exponent })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rsa(bytes: usize) -> Value {
        let n = URL_SAFE_NO_PAD.encode(vec![0x80; bytes]);
        json!({"kty": "RSA", "kid": "r", "n": n, "e": "AQAB"})
    }

    fn ec() -> Value {
        let x = URL_SAFE_NO_PAD.encode([1; 32]);
        json!({"kty": "EC", "kid": "e", "crv": "P-256", "x": x, "y": x})
    }

    fn with(mut key: Value, name: &str, value: Value) -> Value {
        key[name] = value;
        key
    }

    fn found(keys: &[Value]) -> Result<usize, String> {
        parse(&json!({ "keys": keys }).to_string()).map(|keys| keys.len())
    }

    #[test]
    fn usable_keys_are_found_among_others() {
        let okp = URL_SAFE_NO_PAD.encode([1; 32]);
        let okp = json!({"kty": "OKP", "crv": "Ed25519", "x": okp});
        let secret = json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"});
        assert_eq!(found(&[rsa(256), ec(), okp, secret]), Ok(3));
        assert_eq!(found(&[with(rsa(256), "use", json!("enc")), ec()]), Ok(1));
        assert_eq!(found(&[with(rsa(256), "kid", json!("e")), ec()]), Ok(2));
    }

    #[test]
    fn sets_without_usable_keys_are_refused() {
        for (keys, why) in [
            (vec![], "no key"),
            (
                vec![json!({"kty": "oct", "k": "c2VjcmV0"})],
                "shared secret",
            ),
            (vec![rsa(128)], "1024 bits"),
            (vec![rsa(1025)], "8200 bits"),
            (
                vec![with(rsa(256), "alg", json!("HS256"))],
                "\"HS256\" is not",
            ),
            (
                vec![with(rsa(256), "alg", json!("none"))],
                "\"none\" is not",
            ),
            (vec![with(rsa(256), "alg", json!("ES256"))], "does not fit"),
            (vec![with(ec(), "crv", json!("P-521"))], "P-521"),
            (vec![with(ec(), "x", json!("AQ"))], "1 bytes"),
            (vec![with(ec(), "x", json!("*"))], "base64url"),
            (vec![with(rsa(256), "key_ops", json!(["sign"]))], "not for"),
            (vec![with(rsa(256), "n", json!(7))], "malformed"),
            (vec![ec(), ec()], "two keys"),
            (vec![ec(); 65], "65 keys"),
        ] {
            let error = found(&keys).unwrap_err();
            assert!(error.contains(why), "{why}: {error}");
        }
        for text in ["", "{}", "[]", "null", "{\"keys\": 1}", "{\"keys\": [{}]}"] {
            assert!(parse(text).is_err(), "{text}");
        }
        let long = format!("{{\"keys\": []{}}}", " ".repeat(JWKS_BYTES));
        assert!(parse(&long).unwrap_err().contains("limit"));
    }
}
