//! What a proxy reads of gRPC: whether a message speaks it, and how its call ended.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap};
use prost::Message;
use tonic::Code;

/// Whether a message is compressed, and its length.
const PREFIX: usize = 5;

/// By the whole media type, which is `application/grpc` or one of its own subtypes, as
/// `application/grpc+proto`: what only begins so, as `application/grpc-web`, is another protocol.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    let Some((media_type, rest)) = value.as_bytes().split_at_checked(GRPC.len()) else {
        return false;
    };
    media_type.eq_ignore_ascii_case(GRPC)
        && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
}

/// Returns the gRPC status of the headers or trailers of a response.
pub fn grpc_status(headers: &HeaderMap) -> Option<Code> {
    let status: i32 = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    // Other numbers are UNKNOWN, by the gRPC specification.
    Some(status.into())
}

/// Returns a message as the body of a call has it, not compressed. Returns `None` if it is too
/// long.
pub(crate) fn frame_message(message: &impl Message) -> Option<Bytes> {
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(PREFIX + length);
    body.put_u8(0);
    body.put_u32(u32::try_from(length).ok()?);
    message.encode(&mut body).ok()?;
    Some(body.freeze())
}

/// Returns the one message of a body. Returns `None` if it is anything else, or compressed.
pub(crate) fn only_message<M: Message + Default>(mut body: Bytes) -> Option<M> {
    if body.len() < PREFIX || body.get_u8() != 0 {
        return None;
    }
    let length = usize::try_from(body.get_u32()).ok()?;
    let whole = (length == body.len()).then_some(body)?;
    M::decode(whole).ok()
}

/// Returns the status of HTTP that a gRPC status stands for.
///
/// Source: `google/rpc/code.proto`, as Envoy's `Grpc::Utility::grpcToHttpStatus`.
pub(crate) fn http_status(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Cancelled => 499,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn grpc_is_recognized_by_exact_media_type() {
        for (kind, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC; charset=utf-8", true),
            ("application/grpc ;a=b", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpcx", false),
            ("application/grp", false),
            ("text/plain; application/grpc", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            assert_eq!(is_grpc(&headers), grpc, "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
