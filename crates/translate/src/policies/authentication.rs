//! The providers of an AuthenticationPolicy, with their faults.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use weft_ir::{Authentication, ClaimHeader, JsonWebKey, JwtProvider, TokenLocation};
use weft_policy::{
    AuthenticationMode, AuthenticationPolicySpec, CaCertificateRef, JwksSource, TokenSources,
};

use super::jwks;
use crate::conditions::Fault;
use crate::limits::{INLINE_JWKS_BYTES, POLICY_PROVIDERS};
use crate::memo::ByIdentity;
use crate::objects::{ConfigMap, FetchedKeys, KeySource};
use crate::references::certificates::ca_of_config_map;
use crate::routes::filters::headers::FRAMING;

/// Seconds by which clocks may differ.
const CLOCK_SKEW: u16 = 60;
const MAX_CLOCK_SKEW: i32 = 300;
/// Why a set that was fetched is not used.
const NO_KEYS: &str = "what was fetched is not a set with usable keys";
/// Headers that describe the message, which a claim must not change, beside those of its framing.
const RESERVED: [&str; 4] = ["content-type", "cookie", "expect", "host"];

/// What policies on tokens refer to.
#[derive(Debug, Default)]
pub(super) struct KeyLookups<'a> {
    keys: HashMap<&'a KeySource, &'a Arc<FetchedKeys>>,
    config_maps: HashMap<(&'a str, &'a str), &'a Arc<ConfigMap>>,
}

impl<'a> KeyLookups<'a> {
    pub(super) fn new(keys: &'a [Arc<FetchedKeys>], config_maps: &'a [Arc<ConfigMap>]) -> Self {
        let by_name = |of: &'a Arc<ConfigMap>| ((&*of.metadata.namespace, &*of.metadata.name), of);
        Self {
            keys: keys.iter().map(|of| (&of.source, of)).collect(),
            config_maps: config_maps.iter().map(by_name).collect(),
        }
    }
}

/// What a policy found when it was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    namespace: String,
    keys: Vec<(KeySource, Option<ByIdentity<FetchedKeys>>)>,
    config_maps: Vec<(String, Option<ByIdentity<ConfigMap>>)>,
}

impl Found {
    /// Returns true if everything is found as before.
    pub(super) fn holds(&self, lookups: &KeyLookups<'_>) -> bool {
        let same_keys = |(source, known): &(KeySource, Option<ByIdentity<FetchedKeys>>)| {
            lookups.keys.get(source).map(|of| ByIdentity::of(of)) == *known
        };
        let same_map = |(name, known): &(String, Option<ByIdentity<ConfigMap>>)| {
            let now = lookups.config_maps.get(&(&*self.namespace, &**name));
            now.map(|of| ByIdentity::of(of)) == *known
        };
        self.keys.iter().all(same_keys) && self.config_maps.iter().all(same_map)
    }

    /// Returns where its keys are fetched from.
    pub(super) fn sources(&self) -> impl Iterator<Item = &KeySource> {
        self.keys.iter().map(|(source, _)| source)
    }
}

/// What the providers of one policy are read with.
pub(super) struct ProviderReader<'a> {
    lookups: &'a KeyLookups<'a>,
    pub(super) found: Found,
    pub(super) faults: Vec<Fault>,
    pub(super) notes: Vec<String>,
    /// The providers without keys, and why.
    pub(super) without_keys: Vec<String>,
}

impl<'a> ProviderReader<'a> {
    pub(super) fn new(namespace: &str, lookups: &'a KeyLookups<'a>) -> Self {
        Self {
            lookups,
            found: Found {
                namespace: namespace.to_owned(),
                ..Found::default()
            },
            faults: Vec::new(),
            notes: Vec::new(),
            without_keys: Vec::new(),
        }
    }

    pub(super) fn read(&mut self, spec: &AuthenticationPolicySpec) -> Authentication {
        let specs = &spec.providers;
        if specs.is_empty() || specs.len() > POLICY_PROVIDERS {
            let why = format_args!(
                "the policy has {} providers, and 1 to {POLICY_PROVIDERS} are supported",
                specs.len()
            );
            self.fault("providers", why);
        }
        let specs = specs.iter().take(POLICY_PROVIDERS).enumerate();
        let providers = specs.map(|(place, of)| self.provider(of, &format!("providers[{place}]")));
        let providers: Vec<JwtProvider> = providers.collect();
        let (mut names, mut issuers) = (HashSet::new(), HashSet::new());
        for (place, of) in providers.iter().enumerate() {
            if !names.insert(&of.name) {
                let at = format!("providers[{place}].name");
                self.fault(&at, "another provider has it, too");
            }
            if !issuers.insert(&of.issuer) {
                let at = format!("providers[{place}].issuer");
                self.fault(
                    &at,
                    "another provider has it, too; name all audiences in one",
                );
            }
        }
        Authentication {
            required: spec.mode == AuthenticationMode::Required,
            providers,
        }
    }

    fn fault(&mut self, at: &str, why: impl fmt::Display) {
        self.faults.push(Fault::value(at, why));
    }

    fn provider(&mut self, spec: &weft_policy::JwtProvider, at: &str) -> JwtProvider {
        let weft_policy::JwtProvider {
            name,
            issuer,
            audiences,
            jwks,
            from,
            claims_to_headers,
            forward,
            clock_skew_seconds,
        } = spec;
        if issuer.is_empty() {
            self.fault(&format!("{at}.issuer"), "required");
        }
        if audiences.is_empty() {
            self.notes.push(format!(
                "{at}.audiences is empty, so tokens of the issuer for other services pass"
            ));
        }
        let clock_skew = match clock_skew_seconds {
            None => CLOCK_SKEW,
            Some(seconds) if (0..=MAX_CLOCK_SKEW).contains(seconds) => {
                u16::try_from(*seconds).unwrap_or(CLOCK_SKEW)
            }
            Some(seconds) => {
                let why = format_args!("{seconds} is not between 0 and {MAX_CLOCK_SKEW}");
                self.fault(&format!("{at}.clockSkewSeconds"), why);
                CLOCK_SKEW
            }
        };
        let mut claim_headers = Vec::new();
        for (place, of) in claims_to_headers.iter().enumerate() {
            let at = format!("{at}.claimsToHeaders[{place}]");
            if let Some(header) = self.header(&of.header, &format!("{at}.header")) {
                let name = header.as_str();
                let reserved = RESERVED.contains(&name) || FRAMING.contains(&name);
                if reserved || name.starts_with("weft-") {
                    let why = format_args!("{header} is not for claims");
                    self.fault(&format!("{at}.header"), why);
                }
                claim_headers.push(ClaimHeader {
                    claim: of.claim.clone(),
                    header,
                });
            }
        }
        JwtProvider {
            name: name.clone(),
            issuer: issuer.clone(),
            audiences: audiences.clone(),
            keys: self.keys(name, jwks, &format!("{at}.jwks")),
            locations: self.locations(from.as_ref(), &format!("{at}.from")),
            claim_headers,
            forward: forward.unwrap_or(true),
            clock_skew,
        }
    }

    fn header(&mut self, name: &str, at: &str) -> Option<HeaderName> {
        let parsed = name.parse().ok();
        if parsed.is_none() {
            self.fault(at, format_args!("{name:?} is not a header name"));
        }
        parsed
    }

    fn locations(&mut self, from: Option<&TokenSources>, at: &str) -> Vec<TokenLocation> {
        let Some(TokenSources {
            headers,
            query_params,
            cookies,
        }) = from
        else {
            return vec![TokenLocation::Header {
                name: http::header::AUTHORIZATION,
                prefix: "Bearer ".to_owned(),
            }];
        };
        let mut locations = Vec::new();
        for (place, of) in headers.iter().enumerate() {
            let at = format!("{at}.headers[{place}].name");
            if let Some(name) = self.header(&of.name, &at) {
                locations.push(TokenLocation::Header {
                    name,
                    prefix: of.prefix.clone().unwrap_or_default(),
                });
            }
        }
        locations.extend(query_params.iter().cloned().map(TokenLocation::Query));
        locations.extend(cookies.iter().cloned().map(TokenLocation::Cookie));
        if headers.is_empty() && query_params.is_empty() && cookies.is_empty() {
            self.fault(at, "at least one place is required");
        }
        locations
    }

    fn keys(&mut self, name: &str, spec: &JwksSource, at: &str) -> Vec<JsonWebKey> {
        let JwksSource {
            inline,
            uri,
            ca_certificate_refs,
        } = spec;
        let parsed = match (inline, uri) {
            (Some(_), None) if !ca_certificate_refs.is_empty() => {
                Err(Fault::value(at, "caCertificateRefs requires uri"))
            }
            (Some(text), None) if text.len() > INLINE_JWKS_BYTES => {
                let why = format_args!("the limit is {INLINE_JWKS_BYTES} bytes");
                Err(Fault::value(&format!("{at}.inline"), why))
            }
            (Some(text), None) => {
                jwks::parse(text).map_err(|why| Fault::value(&format!("{at}.inline"), why))
            }
            (None, Some(uri)) => self.fetched(name, uri, ca_certificate_refs, at),
            _ => Err(Fault::value(
                at,
                "exactly one of inline and uri is required",
            )),
        };
        parsed.unwrap_or_else(|fault| {
            self.faults.push(fault);
            Vec::new()
        })
    }

    /// Keys that are missing are no fault: the issuer may be back in a moment.
    fn fetched(
        &mut self,
        name: &str,
        uri: &str,
        refs: &[CaCertificateRef],
        at: &str,
    ) -> Result<Vec<JsonWebKey>, Fault> {
        check_uri(uri).map_err(|why| Fault::value(&format!("{at}.uri"), why))?;
        let source = KeySource {
            uri: uri.into(),
            ca: self.ca(refs, at)?,
        };
        let fetched = self.lookups.keys.get(&source).copied();
        let known = fetched.map(ByIdentity::of);
        self.found.keys.push((source, known));
        let parsed = match fetched {
            None => Err("they have not been fetched yet".to_owned()),
            Some(of) => match (&of.jwks, &of.failure) {
                (Some(text), failure) => {
                    if let Some(why) = failure {
                        self.notes.push(format!(
                            "{at}: the keys that were fetched before are in use, since {why}"
                        ));
                    }
                    // Nothing that a server says is in a status.
                    jwks::parse(text).map_err(|_| NO_KEYS.to_owned())
                }
                (None, Some(why)) => Err(why.clone()),
                (None, None) => Err("they have not been fetched yet".to_owned()),
            },
        };
        Ok(parsed.unwrap_or_else(|why| {
            self.without_keys.push(format!("provider {name}: {why}"));
            Vec::new()
        }))
    }

    fn ca(&mut self, refs: &[CaCertificateRef], at: &str) -> Result<Option<String>, Fault> {
        let mut all = String::new();
        for (place, CaCertificateRef { name }) in refs.iter().enumerate() {
            let namespace = self.found.namespace.clone();
            let map = self
                .lookups
                .config_maps
                .get(&(&*namespace, &**name))
                .copied();
            let known = map.map(ByIdentity::of);
            self.found.config_maps.push((name.clone(), known));
            let at = format!("{at}.caCertificateRefs[{place}]");
            let pem = ca_of_config_map(map.map(AsRef::as_ref), &namespace, name)
                .map_err(|why| Fault::value(&at, why))?;
            all.push_str(pem);
            all.push('\n');
        }
        Ok((!all.is_empty()).then_some(all))
    }
}

/// The same rules hold when the controller connects.
fn check_uri(uri: &str) -> Result<(), String> {
    let parsed: http::Uri = uri.parse().map_err(|_| "it is not a URI".to_owned())?;
    if parsed.scheme_str() != Some("https") {
        return Err("only https is supported".to_owned());
    }
    let authority = parsed.authority().map(http::uri::Authority::as_str);
    if authority.is_none_or(|of| of.contains('@')) {
        return Err("a host without a user is required".to_owned());
    }
    Ok(())
}
