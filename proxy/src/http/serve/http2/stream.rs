//! One request of HTTP/2, in a task of its own.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Request};
use http_body::Body as _;

use crate::body::{Incoming, StreamWriter};
use crate::http::delivery;
use crate::http::resets::PendingRequest;
use crate::http::response_body::Response;
use crate::http::serve::Handler;
use crate::wire;

/// Handles the request and sends its response. What is left when this is dropped is reset: with
/// CANCEL, or NO_ERROR when the response is whole and the request is not (RFC 9113, 8.1).
pub(super) async fn serve<H: Handler>(
    handler: Arc<H>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    pending: PendingRequest,
) {
    let (head, stream) = request.into_parts();
    let body = Incoming::of_request(stream, &head.headers);
    // Boxed: started requests are moved about, a pointer is moved faster, and what the request
    // needed is freed before the body of its response is sent.
    let response = Box::pin(handler.handle(Request::from_parts(head, body)));
    let Some(response) = handled(response, &mut respond).await else {
        return;
    };
    pending.responded();
    let (mut head, body) = response.into_parts();
    wire::strip_connection_fields(&mut head.headers, false);
    let is_empty = body.is_end_stream();
    if let Some(length) = body.size_hint().exact()
        && !is_empty
    {
        let length = || HeaderValue::from(length);
        head.headers.entry(CONTENT_LENGTH).or_insert_with(length);
    }
    let response = http::Response::from_parts(head, ());
    match respond.send_response(response, is_empty) {
        Ok(stream) if !is_empty => {
            drop(respond);
            StreamWriter::new(stream, body).await;
        }
        Ok(_) => {}
        Err(_) => respond.send_reset(Reason::INTERNAL_ERROR),
    }
}

/// Waits for the response, and sends the informational ones before it. Returns `None` if the client
/// resets the stream.
async fn handled(
    mut response: Pin<Box<impl Future<Output = Response>>>,
    respond: &mut SendResponse<Bytes>,
) -> Option<Response> {
    poll_fn(|cx| {
        // First: the end of the request would be taken for a failure of the endpoint.
        if respond.poll_reset(cx).is_ready() {
            return Poll::Ready(None);
        }
        let polled = response.as_mut().poll(cx);
        for informational in delivery::take_informational() {
            // A stream that was reset meanwhile has nobody to tell.
            let _ = respond.send_informational(informational);
        }
        polled.map(Some)
    })
    .await
}
