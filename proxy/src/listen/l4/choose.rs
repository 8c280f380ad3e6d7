//! Which rule takes a connection of bytes, and which cluster it goes to.

use std::sync::Arc;

use weft_ir::Protocol;

use super::client_hello::{ClientHello, peek_client_hello};
use super::recorder::ConnectionRecorder;
use crate::listen::ConnectionError;
use crate::routing::destination::{
    Resolved, ResolvedRouting, ResolvedRule, ResolvedService, TlsRoutes, WatchedDestination,
};
use crate::telemetry::error_type::ErrorType;
use crate::telemetry::requests::RequestMetrics;
use crate::upstream::Cluster;

pub(super) fn needs_server_name(config: &Resolved) -> bool {
    matches!(config, Resolved::Service(service) if matches!(service.routing, ResolvedRouting::Tls(_)))
}

/// The cluster of a connection, and the metrics that it counts in.
pub(in crate::listen) struct ChosenCluster {
    pub(super) cluster: Arc<Cluster>,
    pub(super) metrics: Arc<RequestMetrics>,
}

/// Chooses the cluster for a connection that begins with `seen`.
pub(super) fn choose_cluster(
    watched: &WatchedDestination,
    seen: &[u8],
    recorder: &mut ConnectionRecorder<'_>,
) -> Result<ChosenCluster, ConnectionError> {
    let config = watched.load();
    let service = match &**config {
        Resolved::Pod(cluster) => {
            let (cluster, metrics) = (
                cluster.clone(),
                recorder.runtime.metrics.outbound_pod.clone(),
            );
            recorder.metrics = Some(metrics.clone());
            return Ok(ChosenCluster { cluster, metrics });
        }
        Resolved::Service(service) => service,
        Resolved::Unknown => {
            let words = format!("nothing is at {} any more", watched.address);
            return Err(ConnectionError::refused(ErrorType::DestinationGone, words));
        }
    };
    let rule = match_rule(service, seen, recorder)?;
    pick_cluster(rule, recorder)
}

/// Picks a backend of the rule by weight.
pub(in crate::listen) fn pick_cluster(
    rule: &ResolvedRule,
    recorder: &mut ConnectionRecorder<'_>,
) -> Result<ChosenCluster, ConnectionError> {
    recorder.metrics = Some(rule.metrics.clone());
    let Some(backend) = rule.pick_backend() else {
        return Err(ConnectionError::refused(
            ErrorType::InvalidConfiguration,
            "no backend has a weight",
        ));
    };
    recorder.metrics = Some(backend.metrics.clone());
    match &backend.target {
        Ok(cluster) => Ok(ChosenCluster {
            cluster: cluster.clone(),
            metrics: backend.metrics.clone(),
        }),
        Err(reason) => Err(ConnectionError::refused(
            ErrorType::InvalidConfiguration,
            &**reason,
        )),
    }
}

/// Matches a connection that begins with `seen`.
fn match_rule<'a>(
    service: &'a ResolvedService,
    seen: &[u8],
    recorder: &mut ConnectionRecorder<'_>,
) -> Result<&'a ResolvedRule, ConnectionError> {
    let id = &service.id;
    match &service.routing {
        ResolvedRouting::Direct(rule) | ResolvedRouting::Tcp(rule) => Ok(rule),
        // What is not HTTP matches no HTTP route. Unless the Service declares HTTP, it is forwarded
        // as if there were no routes.
        ResolvedRouting::Http(_, own) | ResolvedRouting::Grpc(_, own)
            if service.protocol == Protocol::Detect =>
        {
            Ok(own)
        }
        ResolvedRouting::Http(routes, _) | ResolvedRouting::Grpc(routes, _) => {
            recorder.metrics = Some(routes.unmatched.clone());
            let words = format!("{id} speaks HTTP and has HTTP routes, and this is not HTTP");
            Err(ConnectionError::refused(ErrorType::NotHttp, words))
        }
        ResolvedRouting::Tls(routes) => {
            recorder.metrics = Some(routes.unmatched.clone());
            let Some(ClientHello::Names(name)) = peek_client_hello(seen) else {
                let words = format!("{id} has TLSRoutes, and this is not TLS");
                return Err(ConnectionError::refused(ErrorType::NotTls, words));
            };
            recorder.tls = true;
            rule_by_server_name(routes, name, &format_args!("{id}"), recorder)
        }
    }
}

/// Matches the server name of a connection. `of`: what the routes are attached to.
pub(in crate::listen) fn rule_by_server_name<'a>(
    routes: &'a TlsRoutes,
    name: Option<String>,
    of: &dyn std::fmt::Display,
    recorder: &mut ConnectionRecorder<'_>,
) -> Result<&'a ResolvedRule, ConnectionError> {
    recorder.metrics = Some(routes.unmatched.clone());
    let rules = routes.rules.iter();
    let found = weft_ir::find_tls(rules.map(|(rule, _)| rule), name.as_deref());
    let rule = found.and_then(|place| routes.rules.get(place));
    let rule = rule.map(|(_, resolved)| resolved);
    let rule = rule.ok_or_else(|| {
        let named = name.as_deref().unwrap_or("no server");
        let words = format!("no TLSRoute of {of} has the name: the client names {named}");
        ConnectionError::refused(ErrorType::NoRoute, words)
    });
    recorder.server_name = name;
    rule
}
