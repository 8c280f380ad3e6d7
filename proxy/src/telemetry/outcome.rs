//! How a request ended, and its class, which is a label of latencies.

use http::StatusCode;
use tonic::Code;

use super::error_type::ErrorType;
use super::labels::{Pairs, RequestProtocol};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestOutcome {
    pub protocol: RequestProtocol,
    pub code: StatusCode,
    /// The status that a gRPC response ended with.
    pub grpc_status: Option<Code>,
    /// Why a proxy answered itself, or why the response broke off.
    pub error_type: Option<ErrorType>,
}

impl RequestOutcome {
    pub(super) fn append_to(&self, pairs: &mut Pairs) {
        pairs.push(("code", self.code.as_str().to_owned()));
        pairs.push(("protocol", self.protocol.as_str().to_owned()));
        if let Some(status) = self.grpc_status {
            pairs.push(("grpc_status", i32::from(status).to_string()));
        }
        if let Some(error_type) = self.error_type {
            pairs.push(("error_type", error_type.as_str().to_owned()));
        }
    }
}

/// How requests ended, by class of status, for latencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusClass {
    Informational,
    Success,
    Redirection,
    ClientError,
    ServerError,
}

impl StatusClass {
    pub(super) const ALL: [Self; 5] = [
        Self::Informational,
        Self::Success,
        Self::Redirection,
        Self::ClientError,
        Self::ServerError,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Informational => "1xx",
            Self::Success => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
        }
    }

    /// Of a gRPC call by its status: 5xx is what OpenTelemetry's conventions for gRPC hold for an
    /// error of the server, and a response without a status, which clients take for UNKNOWN.
    pub(super) fn of(outcome: &RequestOutcome) -> Self {
        match (outcome.protocol, outcome.grpc_status) {
            (RequestProtocol::Grpc, Some(status)) => Self::of_grpc(status),
            (RequestProtocol::Grpc, None) if outcome.code.is_success() => Self::ServerError,
            _ => Self::of_http(outcome.code),
        }
    }

    fn of_http(code: StatusCode) -> Self {
        match code.as_u16() {
            ..200 => Self::Informational,
            200..300 => Self::Success,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            // Those above 599 too (RFC 9110, 15).
            500.. => Self::ServerError,
        }
    }

    fn of_grpc(status: Code) -> Self {
        match status {
            Code::Ok => Self::Success,
            Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Self::ServerError,
            Code::Cancelled
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unauthenticated => Self::ClientError,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(protocol: RequestProtocol, code: u16, grpc_status: Option<Code>) -> &'static str {
        let outcome = RequestOutcome {
            protocol,
            code: StatusCode::from_u16(code).unwrap(),
            grpc_status,
            error_type: None,
        };
        StatusClass::of(&outcome).as_str()
    }

    #[test]
    fn http_and_grpc_statuses_share_status_classes() {
        for (code, expected) in [
            (101, "1xx"),
            (200, "2xx"),
            (304, "3xx"),
            (404, "4xx"),
            (499, "4xx"),
            (503, "5xx"),
            (999, "5xx"),
        ] {
            assert_eq!(class(RequestProtocol::Http1, code, None), expected);
        }
        for (status, expected) in [
            (Some(Code::Ok), "2xx"),
            (Some(Code::NotFound), "4xx"),
            (Some(Code::Unavailable), "5xx"),
            (None, "5xx"),
        ] {
            assert_eq!(class(RequestProtocol::Grpc, 200, status), expected);
        }
        assert_eq!(class(RequestProtocol::Grpc, 499, None), "4xx");
    }
}
