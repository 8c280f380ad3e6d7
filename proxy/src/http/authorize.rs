//! How the decision on a request becomes its failure.

use std::sync::Arc;

use http::HeaderValue;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use weft_ir::RouteSection;

use super::authenticate::challenge;
use super::errors::Failure;
use super::exchange::Exchange;
use super::response_body::{Response, ResponseBody};
use crate::authorization::Permit;

impl Exchange {
    /// Keeps what was decided on the request. Errors if it is denied.
    pub fn set_permit(&mut self, permit: Permit) -> Result<(), Failure> {
        self.permit = Some(permit);
        self.permitted()
    }

    /// Decides by the policies of a gateway's listener. Errors if the request is denied.
    pub fn authorize_at_listener(&mut self, name: &Arc<str>, head: &Parts) -> Result<(), Failure> {
        if let Some(permit) = &mut self.permit {
            permit.at_listener(name, head);
        }
        self.permitted()
    }

    /// Decides by the policies of a gateway's route. Errors if the request is denied.
    pub fn authorize_at_route(
        &mut self,
        section: Option<&Arc<RouteSection>>,
        head: &Parts,
    ) -> Result<(), Failure> {
        if let (Some(permit), Some(section)) = (&mut self.permit, section) {
            permit.at_route(section, head);
        }
        self.permitted()
    }

    pub(super) fn permitted(&self) -> Result<(), Failure> {
        let verdict = self.permit.as_ref().and_then(Permit::verdict);
        match verdict.filter(|verdict| verdict.is_denied()) {
            Some(verdict) => Err(Failure::Denied(verdict.clone())),
            None => Ok(()),
        }
    }

    /// Returns true if the policies have changed, and deny the request now.
    pub fn is_revoked(&mut self) -> bool {
        self.permit.as_mut().is_some_and(Permit::is_revoked)
    }

    /// Errors if the policies have changed, and deny the request now.
    pub fn still_permitted(&mut self) -> Result<(), Failure> {
        match self.is_revoked() {
            true => self.permitted(),
            false => Ok(()),
        }
    }

    /// Returns why a request failed: because it is denied by now, or `failure`.
    pub fn denied_or(&mut self, failure: Failure) -> Failure {
        self.still_permitted().err().unwrap_or(failure)
    }

    /// Names the policy to a client inside the mesh.
    pub(super) fn describe_denial(&self, failure: &Failure, response: &mut Response) {
        let Failure::Denied(verdict) = failure else {
            return;
        };
        if let Some(error) = verdict.token_error() {
            challenge(error, response);
        }
        let has_body = self.permit.as_ref().is_some_and(Permit::has_response_body);
        if has_body && !self.is_grpc() && !self.is_from_gateway() {
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, text);
            *response.body_mut() = ResponseBody::text(format!("{verdict}\n"));
        }
    }
}
