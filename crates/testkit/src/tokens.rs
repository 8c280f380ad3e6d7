//! Issuers of JSON Web Tokens, with keys of their own.

use anyhow::{Result, anyhow};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use weft_ir::{JsonWebKey, KeyMaterial, TokenAlgorithm};

/// A key pair that signs tokens.
pub struct Signer {
    id: String,
    pair: Pair,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Box<EcdsaKeyPair>, TokenAlgorithm),
    Ed25519(Box<Ed25519KeyPair>),
}

impl Signer {
    /// Makes a key that fits the algorithm, with the `kid` `id`.
    pub fn new(algorithm: TokenAlgorithm, id: &str) -> Result<Self> {
        let ecdsa = |how: &'static EcdsaSigningAlgorithm| -> Result<Pair> {
            let pair = EcdsaKeyPair::generate(how).map_err(|_| anyhow!("no key"))?;
            Ok(Pair::Ecdsa(Box::new(pair), algorithm))
        };
        let pair = match algorithm {
            TokenAlgorithm::Es256 => ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING)?,
            TokenAlgorithm::Es384 => ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING)?,
            TokenAlgorithm::EdDsa => {
                let pair = Ed25519KeyPair::generate().map_err(|_| anyhow!("no key"))?;
                Pair::Ed25519(Box::new(pair))
            }
            _ => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| anyhow!("no key"))?;
                Pair::Rsa(Box::new(pair))
            }
        };
        Ok(Self {
            id: id.to_owned(),
            pair,
        })
    }

    /// Returns the public key.
    pub fn key(&self) -> JsonWebKey {
        let material = match &self.pair {
            Pair::Rsa(pair) => KeyMaterial::Rsa {
                modulus: pair
                    .public_key()
                    .modulus()
                    .big_endian_without_leading_zero()
                    .to_vec(),
                exponent: pair
                    .public_key()
                    .exponent()
                    .big_endian_without_leading_zero()
                    .to_vec(),
            },
            Pair::Ecdsa(pair, algorithm) => {
                let point = pair.public_key().as_ref().to_vec();
                match algorithm {
                    TokenAlgorithm::Es384 => KeyMaterial::P384(point),
                    _ => KeyMaterial::P256(point),
                }
            }
            Pair::Ed25519(pair) => KeyMaterial::Ed25519(pair.public_key().as_ref().to_vec()),
        };
        JsonWebKey {
            id: Some(self.id.clone()),
            algorithm: None,
            material,
        }
    }

    /// Returns the public key as a JSON Web Key.
    pub fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let point = |point: &[u8], curve: &str| {
            let half = (point.len() - 1) / 2;
            let (x, y) = (text(&point[1..=half]), text(&point[half + 1..]));
            json!({"kty": "EC", "crv": curve, "x": x, "y": y})
        };
        let mut jwk = match self.key().material {
            KeyMaterial::Rsa { modulus, exponent } => {
                json!({"kty": "RSA", "n": text(&modulus), "e": text(&exponent)})
            }
            KeyMaterial::P256(of) => point(&of, "P-256"),
            KeyMaterial::P384(of) => point(&of, "P-384"),
            KeyMaterial::Ed25519(of) => json!({"kty": "OKP", "crv": "Ed25519", "x": text(&of)}),
        };
        jwk["kid"] = self.id.as_str().into();
        jwk
    }

    /// Returns a token with these claims.
    pub fn token(&self, algorithm: TokenAlgorithm, claims: &Value) -> Result<String> {
        let header = json!({"alg": algorithm.as_str(), "kid": self.id, "typ": "JWT"});
        self.sign(algorithm, &header, claims)
    }

    /// Returns a token with any header, signed as the algorithm has it.
    pub fn sign(
        &self,
        algorithm: TokenAlgorithm,
        header: &Value,
        claims: &Value,
    ) -> Result<String> {
        let signed = format!("{}.{}", part(header), part(claims));
        let random = SystemRandom::new();
        let bytes = signed.as_bytes();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let how: &'static dyn aws_lc_rs::signature::RsaEncoding = match algorithm {
                    TokenAlgorithm::Rs384 => &RSA_PKCS1_SHA384,
                    TokenAlgorithm::Rs512 => &RSA_PKCS1_SHA512,
                    TokenAlgorithm::Ps256 => &RSA_PSS_SHA256,
                    TokenAlgorithm::Ps384 => &RSA_PSS_SHA384,
                    TokenAlgorithm::Ps512 => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(how, &random, bytes, &mut signature)
                    .map_err(|_| anyhow!("not signed"))?;
                signature
            }
            Pair::Ecdsa(pair, _) => {
                let signature = pair
                    .sign(&random, bytes)
                    .map_err(|_| anyhow!("not signed"))?;
                signature.as_ref().to_vec()
            }
            Pair::Ed25519(pair) => pair.sign(bytes).as_ref().to_vec(),
        };
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// Returns a header or claims as they are in a token.
pub fn part(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}
