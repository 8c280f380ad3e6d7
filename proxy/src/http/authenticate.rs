//! How the verification of a request's token becomes its failure.
//!
//! Source: RFC 6750, section 3 (`WWW-Authenticate`).

use std::sync::Arc;

use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;
use http::request::Parts;
use weft_ir::RouteSection;

use super::errors::Failure;
use super::exchange::Exchange;
use super::response_body::Response;
use crate::authentication::TokenError;

impl Exchange {
    /// Verifies the token by the policies of a gateway's listener. Errors if it is refused.
    pub fn authenticate_at_listener(
        &mut self,
        name: &str,
        head: &mut Parts,
    ) -> Result<(), Failure> {
        if let Some(permit) = &mut self.permit {
            permit.authenticate_at_listener(name, head);
        }
        self.permitted()
    }

    /// Verifies the token by the policies of a gateway's route. Errors if it is refused.
    pub fn authenticate_at_route(
        &mut self,
        section: Option<&Arc<RouteSection>>,
        head: &mut Parts,
    ) -> Result<(), Failure> {
        if let (Some(permit), Some(section)) = (&mut self.permit, section) {
            permit.authenticate_at_route(section, head);
        }
        self.permitted()
    }

    /// Removes the tokens that are not to be forwarded from a request that is allowed.
    pub fn remove_tokens(&self, head: &mut Parts) {
        if let Some(permit) = &self.permit {
            permit.remove_tokens(head);
        }
    }
}

/// Tells the client that its request needs a token, or what is wrong with it.
pub(super) fn challenge(error: TokenError, response: &mut Response) {
    let code = match error {
        TokenError::Absent => None,
        TokenError::Several => Some("invalid_request"),
        _ => Some("invalid_token"),
    };
    let challenge = match code {
        None => "Bearer realm=\"weft\"".to_owned(),
        Some(code) => {
            format!("Bearer realm=\"weft\", error=\"{code}\", error_description=\"{error}\"")
        }
    };
    if let Ok(challenge) = HeaderValue::try_from(challenge) {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
}
