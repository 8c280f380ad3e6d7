//! Requests and upgraded connections that are under way when the policies change.

use super::*;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use weft_ir::Protocol;

/// An application of HTTP/1.1: `/switch` changes to an echo, `/slow` is answered when it is told,
/// and any other request gets a chunk whenever it is told.
async fn serve(mut stream: TcpStream, more: Arc<Notify>) -> std::io::Result<()> {
    loop {
        let head = head(&mut stream).await;
        if head.starts_with("GET /switch") {
            let switches =
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
            stream.write_all(switches).await?;
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await?;
            return write.shutdown().await;
        }
        if head.contains(" /slow ") {
            more.notified().await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).await?;
            continue;
        }
        let begins = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(begins).await?;
        loop {
            stream.write_all(b"3\r\none\r\n").await?;
            more.notified().await;
        }
    }
}

/// A pair in front of it.
async fn before_app() -> (Proxies, Arc<Notify>) {
    let more = Arc::new(Notify::new());
    let told = more.clone();
    let serve = move |stream| {
        let told = told.clone();
        async move {
            let _ = serve(stream, told).await;
        }
    };
    (Proxies::serving(Protocol::Http1, serve).await, more)
}

async fn client_of(pair: &Proxies) -> Client {
    Client::connect(pair.front, Version::Http1).await
}

/// Policies under which a request begins: none, and one that allows it.
fn beginnings() -> [Vec<AuthorizationPolicy>; 2] {
    [Vec::new(), vec![policy("p", Allow, any())]]
}

#[tokio::test]
async fn download_breaks_off_when_denied() {
    for policies in beginnings() {
        let (pair, more) = before_app().await;
        enforce(&pair.server, policies);
        let mut client = client_of(&pair).await;
        let response = client.raw(Request::get("/download"), "").await.unwrap();
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        let mut next = async || within_a_second(body.frame()).await;
        assert_eq!(next().await.unwrap().unwrap().into_data().unwrap(), "one");
        // A change by which it is still allowed.
        enforce(
            &pair.server,
            vec![policy(
                "p",
                Allow,
                vec![to_requests(&[prefix("/download")])],
            )],
        );
        more.notify_one();
        assert_eq!(next().await.unwrap().unwrap().into_data().unwrap(), "one");
        enforce(
            &pair.server,
            vec![policy("p", Deny, vec![to_requests(&[prefix("/download")])])],
        );
        more.notify_one();
        let end = next().await;
        assert!(end.is_some_and(|frame| frame.is_err()));
        assert_eq!(client_of(&pair).await.get("/download").await.status, 403);
    }
}

/// The response is not passed on, though the application made one.
#[tokio::test]
async fn response_is_refused_when_denied_meanwhile() {
    let (pair, more) = before_app().await;
    for policies in beginnings() {
        enforce(&pair.server, policies);
        let mut client = client_of(&pair).await;
        let asked = tokio::spawn(async move { client.get("/slow").await });
        while pair
            .server
            .metrics()
            .contains(r#"weft_requests_active{direction="inbound"} 0"#)
        {
            tokio::task::yield_now().await;
        }
        enforce(&pair.server, deny_all());
        more.notify_one();
        let seen = within_a_second(asked).await.unwrap();
        assert_eq!(
            (seen.status, seen.header("weft-error-type")),
            (403, "authorization_denied")
        );
        // Whatever was not taken.
        let _ = tokio::time::timeout(Duration::ZERO, more.notified()).await;
    }
}

#[tokio::test]
async fn upload_ends_when_denied() {
    let (pair, _more) = before_app().await;
    for policies in beginnings() {
        enforce(&pair.server, policies);
        let stream = TcpStream::connect(pair.front).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let (frames, received) = mpsc::unbounded_channel::<Result<Frame<Bytes>, std::io::Error>>();
        let stream = tokio_stream::wrappers::UnboundedReceiverStream::new(received);
        frames.send(Ok(Frame::data("one".into()))).unwrap();
        // The application answers such a request when it is told, which it never is.
        let request = Request::post("/slow").header("host", "reviews");
        let request = request.body(StreamBody::new(stream)).unwrap();
        let asked = tokio::spawn(async move { sender.send_request(request).await });
        while pair
            .server
            .metrics()
            .contains(r#"weft_requests_active{direction="inbound"} 0"#)
        {
            tokio::task::yield_now().await;
        }
        enforce(&pair.server, deny_all());
        // Unless the first piece had not passed yet, and is denied.
        let _ = frames.send(Ok(Frame::data("two".into())));
        let response = within_a_second(asked).await.unwrap().unwrap();
        assert_eq!(response.status(), 403);
    }
}

#[tokio::test]
async fn keep_alive_connection_gets_403() {
    for version in BOTH {
        let (pair, mut client) = Pair::for_version(version).await;
        for policies in beginnings() {
            enforce(&pair.server, policies);
            assert_eq!(client.get("/").await.status, 200);
            enforce(&pair.server, deny_all());
            assert_eq!(client.get("/").await.status, 403, "{version:?}");
        }
        enforce(&pair.server, Vec::new());
        assert_eq!(client.get("/").await.status, 200, "on the same connection");
    }
}

#[tokio::test]
async fn upgraded_connection_is_closed_when_denied() {
    let (pair, _more) = before_app().await;
    let ask =
        b"GET /switch HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    for policies in beginnings() {
        enforce(&pair.server, policies);
        let mut client = pair.connect().await;
        client.write_all(ask).await.unwrap();
        assert!(head(&mut client).await.starts_with("HTTP/1.1 101 "));
        let echoed = async |client: &mut TcpStream| {
            client.write_all(b"ask").await.unwrap();
            let mut back = [0; 3];
            within_a_second(client.read_exact(&mut back)).await.unwrap();
            assert_eq!(&back, b"ask");
        };
        echoed(&mut client).await;
        // What was upgraded is decided on as the request that it began with.
        let switch = to_requests(&[prefix("/switch")]);
        enforce(&pair.server, vec![policy("p", Allow, vec![switch.clone()])]);
        echoed(&mut client).await;
        enforce(&pair.server, vec![policy("p", Deny, vec![switch])]);
        let mut rest = Vec::new();
        let _ = within_a_second(client.read_to_end(&mut rest)).await;
        assert_eq!(rest, b"");
    }
}
