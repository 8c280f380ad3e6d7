//! Retries of requests that the server certainly has not processed, which the HTTP libraries leave
//! to the client (RFC 9113, 8.7; for gRPC gRFC A6, transparent retries). A graceful shutdown with
//! GOAWAY causes them: requests that are still queued for the connection, and streams above the
//! last stream ID of the GOAWAY.

use std::error::Error;

use h2::Reason;

/// Maximum number of attempts; each uses another connection.
const MAX_ATTEMPTS: u32 = 5;

/// Returns the result of a request; of the last attempt if the server processed none.
pub(crate) async fn processed<T, E, F>(mut send: impl FnMut() -> F) -> Result<T, E>
where
    E: Error + 'static,
    F: Future<Output = Result<T, E>>,
{
    let mut attempts = 1;
    loop {
        match send().await {
            Err(error) if attempts < MAX_ATTEMPTS && never_processed(&error) => attempts += 1,
            outcome => return outcome,
        }
    }
}

/// Returns true if the request was never sent, or HTTP/2 tells that the server did not process it.
fn never_processed(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // hyper's message for requests that were still queued.
        let unsent = error.downcast_ref().is_some_and(hyper::Error::is_canceled);
        if unsent || error.downcast_ref().is_some_and(is_beyond_the_last) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn is_beyond_the_last(error: &h2::Error) -> bool {
    let reason = error.reason();
    let told_to_go = error.is_go_away() && error.is_remote() && reason == Some(Reason::NO_ERROR);
    told_to_go || reason == Some(Reason::REFUSED_STREAM)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;
    use http_body_util::Full;
    use hyper::client::conn::http2;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tonic::transport::Endpoint;
    use tonic::{Code, Status};

    use super::*;
    use crate::client::{Connections, HttpClient};
    use crate::proto::ReviewRequest;
    use crate::proto::reviews_client::ReviewsClient;

    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;

    /// The server's reaction to a request.
    #[derive(Clone, Copy, Debug)]
    enum Reaction {
        /// Sends GOAWAY with last stream ID 0.
        GoAway,
        Reset,
        /// Responds with status 14.
        Unavailable,
    }

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
        frame.extend_from_slice(payload);
        frame
    }

    /// Returns the stream ID of the connection's next request.
    async fn request(stream: &mut TcpStream) -> Option<u8> {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            stream.read_exact(&mut payload).await.ok()?;
            if head[3] == HEADERS {
                return Some(head[8]);
            }
        }
    }

    async fn serve(listener: TcpListener, does: Vec<Reaction>) {
        let mut does = does.into_iter();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.unwrap();
            stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
            while let Some(number) = request(&mut stream).await {
                let said = match does.next().unwrap() {
                    Reaction::GoAway => frame(GOAWAY, 0, 0, &[0; 8]),
                    Reaction::Reset => frame(RST_STREAM, 0, number, &[0, 0, 0, 7]),
                    // `:status: 200` and `grpc-status: 14` (RFC 7541), with END_STREAM and
                    // END_HEADERS.
                    Reaction::Unavailable => {
                        frame(HEADERS, 5, number, b"\x88\0\x0bgrpc-status\x0214")
                    }
                };
                stream.write_all(&said).await.unwrap();
            }
        }
    }

    /// Starts a server with these reactions to successive requests; returns its URL.
    async fn serving(does: &[Reaction]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, does.to_vec()));
        format!("http://{address}")
    }

    /// Returns the status of a gRPC call.
    async fn called(does: &[Reaction]) -> Status {
        let endpoint = Endpoint::from_shared(serving(does).await).unwrap();
        let client = ReviewsClient::new(endpoint.connect_lazy());
        let call = || {
            let mut client = client.clone();
            async move { client.get(ReviewRequest::default()).await }
        };
        processed(call).await.unwrap_err()
    }

    /// Returns the result of a GET.
    async fn got(does: &[Reaction]) -> anyhow::Result<http::Response<Bytes>> {
        let connections = Connections {
            http2: true,
            fresh: false,
        };
        let client = HttpClient::new(connections);
        client.get(&serving(does).await, &HeaderMap::new()).await
    }

    #[tokio::test]
    async fn unprocessed_streams_are_retried() {
        for did_not in [Reaction::GoAway, Reaction::Reset] {
            let in_the_end = [did_not, did_not, Reaction::Unavailable];
            let status = called(&in_the_end).await;
            assert_eq!(status.code(), Code::Unavailable, "{did_not:?} {status:?}");
            assert!(status.source().is_none(), "{status:?}");
            assert_eq!(got(&in_the_end).await.unwrap().status(), 200);
            let never = [did_not; MAX_ATTEMPTS as usize];
            assert!(never_processed(&called(&never).await), "{did_not:?}");
            assert!(got(&never).await.is_err(), "{did_not:?}");
        }
    }

    #[tokio::test]
    async fn unsent_requests_are_retried() {
        let (near, _far) = tokio::io::duplex(1 << 10);
        let connected = http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await;
        let (mut sender, connection) = connected.unwrap();
        let waiting = sender.send_request(http::Request::new(Full::<Bytes>::default()));
        drop(connection);
        let status = Status::from_error(Box::new(waiting.await.unwrap_err()));
        assert_eq!(status.code(), Code::Cancelled);
        assert!(never_processed(&status), "{status:?}");
        // The same message sent by a server is a response.
        assert!(!never_processed(&Status::cancelled(status.message())));
    }
}
