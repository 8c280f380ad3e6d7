//! Where checks stand: among the filters of a request, and before the policies.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use weft_ir::{Filter, RouteSection};

use super::Place;
use crate::body::ClientBody;
use crate::http::errors::ShortCircuit;
use crate::http::filters;
use crate::http::forward::Outbound;
use crate::http::response_body::RequestState;
use crate::http::routes::MatchedRoute;
use crate::routing::external_auth::ResolvedAuth;

impl Outbound {
    /// Applies the filters before the check by a server, and this one. Returns the filters after
    /// it.
    pub(in crate::http) async fn up_to<'a>(
        &self,
        auth: &ResolvedAuth,
        matched_route: &MatchedRoute<'_>,
        (all, undecided): (&'a [Filter], Option<&Arc<RouteSection>>),
        (head, body): (&mut Parts, &mut ClientBody),
        state: &mut RequestState,
    ) -> Result<&'a [Filter], ShortCircuit> {
        let (before, rest) = all.split_at_checked(auth.position).unwrap_or((all, &[]));
        let context = filters::FilterContext {
            matched: matched_route.path,
            scheme: self.source.scheme(),
            port: self.source.port(),
        };
        // Policies decide on the request as the client sent it, with what the server made of it.
        let asked = undecided.map(|_| head.uri.clone());
        let passed = filters::on_request(before, head, context, &mut state.asked);
        let mut passed = self.settle(passed, &matched_route.policy, state).await;
        if passed.is_ok() {
            let limit = matched_route
                .policy
                .and_then(|of| of.timeouts.request.get());
            passed = Ok(self.check(auth, (&mut *head, body), limit, state).await?);
        }
        if let Some(asked) = asked {
            let changed = std::mem::replace(&mut head.uri, asked);
            let decided = state.exchange.authorize_at_route(undecided, head);
            head.uri = changed;
            decided?;
        }
        passed.map(|()| rest)
    }

    /// Asks the server.
    pub(in crate::http) async fn check(
        &self,
        auth: &ResolvedAuth,
        (head, body): (&mut Parts, &mut ClientBody),
        limit: Option<Duration>,
        state: &mut RequestState,
    ) -> Result<(), ShortCircuit> {
        let place = Place {
            downstream: &self.downstream,
            address: self.source.address(),
            scheme: self.source.scheme(),
            limit,
        };
        // Boxed, so that the futures of requests without a check stay small.
        Box::pin(super::check(auth, head, body, state, place)).await
    }
}
