//! The rules of an authorization policy, with their faults.
//!
//! Nothing is left out of a rule: a condition that is invalid is a fault of the whole policy.

use ipnet::{IpNet, Ipv4Net};
use weft_ir::{AuthorizationRule, ClaimMatch, Identity, SourceMatch, TokenMatch, TrustDomain};
use weft_policy::{
    ApplicationAttributes, JwtClaim, JwtSource, NetworkAttributes, Source, SourceAccount,
    SourceType,
};

use super::requests::request_match;
use crate::conditions::Fault;
use crate::limits::POLICY_SOURCES;
use crate::objects::port_number;
use crate::routes::patterns::PatternBudget;

/// What the rules of one policy are read with.
pub(super) struct RuleReader<'a> {
    pub(super) trust_domain: &'a TrustDomain,
    /// Namespace of the policy; `None` for one of the cluster.
    pub(super) namespace: Option<&'a str>,
    pub(super) patterns: PatternBudget,
    pub(super) faults: Vec<Fault>,
    /// Number of sources so far.
    sources: usize,
}

impl<'a> RuleReader<'a> {
    pub(super) fn new(trust_domain: &'a TrustDomain, namespace: Option<&'a str>) -> Self {
        Self {
            trust_domain,
            namespace,
            patterns: PatternBudget::default(),
            faults: Vec::new(),
            sources: 0,
        }
    }

    pub(super) fn rules(
        &mut self,
        specs: &[weft_policy::AuthorizationRule],
    ) -> Vec<AuthorizationRule> {
        let rules = specs.iter().enumerate();
        let rules = rules.map(|(place, spec)| self.rule(spec, &format!("rules[{place}]")));
        let rules = rules.collect();
        if self.sources > POLICY_SOURCES {
            let why = format_args!(
                "the policy has {} sources, and the limit is {POLICY_SOURCES}; use sources of type \
                 Namespace, or several policies",
                self.sources
            );
            self.faults.push(Fault::value("rules", why));
        }
        rules
    }

    fn rule(&mut self, spec: &weft_policy::AuthorizationRule, at: &str) -> AuthorizationRule {
        let weft_policy::AuthorizationRule {
            sources,
            not_sources,
            network_attributes,
            application_attributes,
        } = spec;
        let sources = sources
            .as_ref()
            .map(|sources| self.sources(sources, &format!("{at}.sources")));
        let not_sources = self.sources(not_sources, &format!("{at}.notSources"));
        let ports = network_attributes
            .as_ref()
            .map_or_else(Vec::new, |spec| self.ports(spec, at));
        let (requests, not_requests) = application_attributes
            .as_ref()
            .map_or_else(Default::default, |spec| self.requests(spec, at));
        AuthorizationRule {
            sources,
            not_sources,
            ports,
            requests,
            not_requests,
        }
    }

    fn sources(&mut self, specs: &[Source], at: &str) -> Vec<SourceMatch> {
        self.sources += specs.len();
        let mut sources = Vec::with_capacity(specs.len());
        for (place, spec) in specs.iter().enumerate() {
            match self.source(spec, &format!("{at}[{place}]")) {
                Ok(source) => sources.push(source),
                Err(fault) => self.faults.push(fault),
            }
        }
        sources
    }

    fn source(&self, spec: &Source, at: &str) -> Result<SourceMatch, Fault> {
        let Source {
            kind,
            service_account,
            spiffe,
            namespace,
            cidr,
            jwt,
        } = spec;
        let fields = (service_account, spiffe, namespace, cidr, jwt);
        match (kind, fields) {
            (SourceType::ServiceAccount, (Some(account), None, None, None, None)) => {
                self.account(account, &format!("{at}.serviceAccount"))
            }
            (SourceType::Spiffe, (None, Some(text), None, None, None)) => text
                .parse()
                .map(SourceMatch::Identity)
                .map_err(|error| Fault::value(&format!("{at}.spiffe"), error)),
            (SourceType::Namespace, (None, None, Some(namespace), None, None)) => {
                self.all_of(namespace, &format!("{at}.namespace"))
            }
            (SourceType::Cidr, (None, None, None, Some(text), None)) => {
                network(text, &format!("{at}.cidr"))
            }
            (SourceType::Jwt, (None, None, None, None, Some(spec))) => {
                token(spec, &format!("{at}.jwt"))
            }
            _ => Err(Fault::value(
                at,
                "exactly the field that type names is required",
            )),
        }
    }

    fn account(&self, spec: &SourceAccount, at: &str) -> Result<SourceMatch, Fault> {
        let SourceAccount { namespace, name } = spec;
        let namespace = namespace.as_deref().or(self.namespace).ok_or_else(|| {
            let why = "required in a ClusterAuthorizationPolicy, which has no namespace of its own";
            Fault::value(&format!("{at}.namespace"), why)
        })?;
        if name == "*" {
            return self.all_of(namespace, &format!("{at}.namespace"));
        }
        Identity::new(self.trust_domain.clone(), namespace, name)
            .map(SourceMatch::Identity)
            .map_err(|_| {
                let why = format_args!("{namespace}/{name} is not the name of a ServiceAccount");
                Fault::value(at, why)
            })
    }

    fn all_of(&self, namespace: &str, at: &str) -> Result<SourceMatch, Fault> {
        // Any account name does: only the namespace is checked.
        Identity::new(self.trust_domain.clone(), namespace, "default")
            .map(|_| SourceMatch::Namespace(self.trust_domain.clone(), namespace.into()))
            .map_err(|_| {
                let why = format_args!("{namespace:?} is not the name of a namespace");
                Fault::value(at, why)
            })
    }

    fn ports(&mut self, spec: &NetworkAttributes, at: &str) -> Vec<u16> {
        let NetworkAttributes { ports } = spec;
        let mut numbers = Vec::with_capacity(ports.len());
        for (place, port) in ports.iter().enumerate() {
            match port_number(i64::from(*port)) {
                Some(number) => numbers.push(number),
                None => {
                    let at = format!("{at}.networkAttributes.ports[{place}]");
                    let why = format_args!("{port} is not between 1 and 65535");
                    self.faults.push(Fault::value(&at, why));
                }
            }
        }
        numbers
    }

    fn requests(
        &mut self,
        spec: &ApplicationAttributes,
        at: &str,
    ) -> (Vec<weft_ir::RequestMatch>, Vec<weft_ir::RequestMatch>) {
        let ApplicationAttributes {
            requests,
            not_requests,
        } = spec;
        let mut read = |specs: &[weft_policy::RequestMatch], field: &str| {
            let read = specs.iter().enumerate().map(|(place, spec)| {
                let at = format!("{at}.applicationAttributes.{field}[{place}]");
                request_match(spec, &at, &mut self.patterns, &mut self.faults)
            });
            read.collect()
        };
        (
            read(requests, "requests"),
            read(not_requests, "notRequests"),
        )
    }
}

fn token(spec: &JwtSource, at: &str) -> Result<SourceMatch, Fault> {
    let JwtSource {
        issuer,
        subject,
        claims,
    } = spec;
    if issuer.is_empty() {
        return Err(Fault::value(&format!("{at}.issuer"), "required"));
    }
    let claim = |(place, spec): (usize, &JwtClaim)| {
        let JwtClaim { name, values } = spec;
        if name.is_empty() || values.is_empty() {
            let why = "a name and at least one value are required";
            return Err(Fault::value(&format!("{at}.claims[{place}]"), why));
        }
        Ok(ClaimMatch {
            name: name.clone(),
            values: values.clone(),
        })
    };
    Ok(SourceMatch::Token(TokenMatch {
        issuer: issuer.clone(),
        subject: subject.clone(),
        claims: claims
            .iter()
            .enumerate()
            .map(claim)
            .collect::<Result<_, _>>()?,
    }))
}

/// IPv4 addresses that are mapped into IPv6 become IPv4 networks, since clients are compared by
/// their IPv4 address.
fn network(text: &str, at: &str) -> Result<SourceMatch, Fault> {
    const MAPPED: u8 = 96;
    let network: IpNet = text.parse().map_err(|_| {
        let why = format_args!("{text:?} is not a network such as 10.1.0.0/16 or fd00::/8");
        Fault::value(at, why)
    })?;
    let mapped = match network {
        IpNet::V6(of) if of.prefix_len() >= MAPPED => of.addr().to_ipv4_mapped(),
        IpNet::V6(_) | IpNet::V4(_) => None,
    };
    let narrowed = mapped.and_then(|address| {
        let length = network.prefix_len() - MAPPED;
        Ipv4Net::new(address, length).ok().map(IpNet::V4)
    });
    Ok(SourceMatch::Network(narrowed.unwrap_or(network).trunc()))
}
