//! What bounds a request, and the one form of every refusal.

use std::time::Duration;

use axum::{Extension, middleware, routing::get};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    super::{frame, serve},
    *,
};

#[tokio::test]
async fn an_unknown_address() {
    let server = Server::start().await;
    insta::assert_snapshot!(server.get("/api/v2/models").await.shown(), @r#"
    404 application/problem+json
    {
      "type": "urn:hokusai:problem:no-such-route",
      "title": "There is no such address",
      "status": 404,
      "detail": "/api/v2/models does not exist; /openapi.json lists what does.",
      "instance": "/api/v2/models",
      "request_id": "[uuid]"
    }
    "#);
}

#[tokio::test]
async fn a_wrong_method() {
    let server = Server::start().await;
    let answer = server.send(Request::builder().method(Method::DELETE).uri("/api/v1/registrations").body(Body::empty()).unwrap()).await;
    insta::assert_snapshot!(answer.shown(), @r#"
    405 application/problem+json
    {
      "type": "urn:hokusai:problem:method-not-allowed",
      "title": "The address does not answer this method",
      "status": 405,
      "detail": "/api/v1/registrations does not answer DELETE; the `Allow` header lists what it answers.",
      "instance": "/api/v1/registrations",
      "request_id": "[uuid]"
    }
    "#);
    assert_eq!(answer.header("allow"), Some("GET,HEAD"));
}

#[tokio::test]
async fn a_body_that_is_not_declared_as_json() {
    let server = Server::start().await;
    for kind in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("application/json; charset=latin1"),
        Some("application/jsonp"),
    ] {
        let mut request = Request::post("/api/v1/models/register");
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let answer = server.send(request.body(Body::from(good().to_string())).unwrap()).await;
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind:?}");
        assert_eq!(answer.text("type"), "urn:hokusai:problem:unsupported-media-type");
    }
    let request = Request::post("/api/v1/models/register").header("content-type", "application/vnd.hokusai+json");
    assert_eq!(server.send(request.body(Body::from(good().to_string())).unwrap()).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn ten_megabytes() {
    let server = Server::start().await;
    let body = with(json!({ "experiment_name": "x".repeat(10_000_000) })).to_string();
    let answer = server.post("/api/v1/models/register", body.clone()).await;
    insta::assert_snapshot!(answer.shown(), @r#"
    413 application/problem+json
    {
      "type": "urn:hokusai:problem:too-large",
      "title": "The request body is too large",
      "status": 413,
      "detail": "The body may hold 262144 bytes.",
      "instance": "/api/v1/models/register",
      "request_id": "[uuid]"
    }
    "#);

    // The same in chunks, of a length that nobody declared.
    let chunks: Vec<_> =
        body.into_bytes().chunks(65_536).map(|chunk| Ok::<_, std::io::Error>(Frame::data(bytes::Bytes::copy_from_slice(chunk)))).collect();
    let answer = server.post("/api/v1/models/register", Body::new(StreamBody::new(futures_util::stream::iter(chunks)))).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn the_largest_body_is_read_and_one_byte_more_is_not() {
    let server = Server::start().await;
    let padded = |length: usize| {
        let body = good().to_string();
        let blanks = " ".repeat(length - body.len());
        body + &blanks
    };
    assert_eq!(server.post("/api/v1/models/register", padded(262_144)).await.status, StatusCode::CREATED);
    assert_eq!(server.post("/api/v1/models/register", padded(262_145)).await.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_body_that_breaks_off() {
    let server = Server::start().await;
    let chunks = [Ok(Frame::data(bytes::Bytes::from_static(b"{\"model"))), Err(std::io::Error::other("gone"))];
    let answer = server.post("/api/v1/models/register", Body::new(StreamBody::new(futures_util::stream::iter(chunks)))).await;
    assert_eq!((answer.status, answer.text("type").as_str()), (StatusCode::BAD_REQUEST, "urn:hokusai:problem:unreadable"));
}

#[tokio::test]
async fn ids_that_no_log_should_hold() {
    let server = Server::start().await;
    let long = "x".repeat(256);
    for (name, value) in [
        ("idempotency-key", ""),
        ("idempotency-key", "a b"),
        ("idempotency-key", &long),
        ("x-correlation-id", "\t"),
        ("x-correlation-id", &long),
    ] {
        let request = Request::post("/api/v1/models/register").header("content-type", "application/json").header(name, value);
        let answer = server.send(request.body(Body::from(good().to_string())).unwrap()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{name}: {value:?}");
        assert_eq!(answer.json()["errors"][0]["field"], name);
    }
    let twice = Request::post("/api/v1/models/register").header("content-type", "application/json");
    let twice = twice.header("idempotency-key", "a").header("idempotency-key", "b").body(Body::from(good().to_string())).unwrap();
    insta::assert_snapshot!(server.send(twice).await.shown(), @r#"
    400 application/problem+json
    {
      "type": "urn:hokusai:problem:bad-parameter",
      "title": "A parameter or header is not acceptable",
      "status": 400,
      "detail": "`idempotency-key` is not acceptable; see `errors`.",
      "instance": "/api/v1/models/register",
      "request_id": "[uuid]",
      "errors": [
        {
          "field": "idempotency-key",
          "problem": "must be given once"
        }
      ]
    }
    "#);
}

#[tokio::test]
async fn the_request_id_of_the_caller_comes_back_if_it_can() {
    let server = Server::start().await;
    let ask = |id: &str| server.send(Request::get("/live").header("x-request-id", id).body(Body::empty()).unwrap());
    assert_eq!(ask("abc-1").await.header("x-request-id"), Some("abc-1"));
    assert_ne!(ask("a b").await.header("x-request-id"), Some("a b"));
}

/// A router whose handlers misbehave, in the same frame as ours.
fn unruly() -> Router {
    Router::new()
        .route("/panic", get(async || -> &'static str { panic!("on purpose: secret") }))
        .route("/slow", get(async || std::future::pending::<&'static str>().await))
        .layer(middleware::from_fn_with_state(frame::Patience(Duration::from_millis(50)), frame::frame))
}

#[tokio::test]
async fn a_panic_is_a_problem_that_tells_nothing() {
    let answer = answer(&unruly(), Request::get("/panic").body(Body::empty()).unwrap()).await;
    insta::assert_snapshot!(answer.shown(), @r#"
    500 application/problem+json
    {
      "type": "urn:hokusai:problem:internal",
      "title": "The server failed",
      "status": 500,
      "detail": "The cause is in the server's log, under this request_id.",
      "instance": "/panic",
      "request_id": "[uuid]"
    }
    "#);
}

#[tokio::test]
async fn a_handler_that_takes_too_long() {
    let answer = answer(&unruly(), Request::get("/slow").body(Body::empty()).unwrap()).await;
    insta::assert_snapshot!(answer.shown(), @r#"
    503 application/problem+json
    {
      "type": "urn:hokusai:problem:too-slow",
      "title": "The request took too long",
      "status": 503,
      "detail": "No answer within 0 s. Whatever was begun may still complete; repeating the request is safe.",
      "instance": "/slow",
      "request_id": "[uuid]"
    }
    "#);
}

/// Serves a router on a socket of its own.
async fn listening(router: Router) -> (std::net::SocketAddr, CancellationToken, tokio::task::JoinHandle<std::io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    (address, stop.clone(), tokio::spawn(serve(listener, router, stop)))
}

/// Sends bytes and reads what comes until the other side closes.
async fn exchange(address: std::net::SocketAddr, sent: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(sent).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut answer)).await.expect("the server closes").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_client_still_sending_ten_megabytes_sees_the_answer() {
    let server = Server::start().await;
    let (address, _stop, _task) = listening(server.router.clone()).await;
    let head = "POST /api/v1/models/register HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10000000\r\nconnection: close\r\n\r\n";
    let answer = exchange(address, &[head.as_bytes(), &vec![b' '; 10_000_000]].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("urn:hokusai:problem:too-large"), "{answer}");
}

#[tokio::test]
async fn heads_are_bounded() {
    let server = Server::start().await;
    let (address, _stop, _task) = listening(server.router.clone()).await;
    // One byte more than is read, so that nothing is left unread and the answer is not lost to a reset.
    let long = format!("GET /live HTTP/1.1\r\nx-long: {}", "x".repeat(32 * 1024));
    assert!(exchange(address, &long.as_bytes()[..=32 * 1024]).await.starts_with("HTTP/1.1 431 "));
    let many: String = (0..100).map(|number| format!("x-{number}: 1\r\n")).collect();
    assert!(exchange(address, format!("GET /live HTTP/1.1\r\nhost: x\r\n{many}\r\n").as_bytes()).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn stopping_finishes_what_is_in_flight_and_accepts_nothing_more() {
    let gate = Arc::new(tokio::sync::Notify::new());
    let (entered, mut has_entered) = tokio::sync::mpsc::channel::<()>(1);
    let router = Router::new().route(
        "/wait",
        get(async |Extension(gate): Extension<Arc<tokio::sync::Notify>>, Extension(entered): Extension<tokio::sync::mpsc::Sender<()>>| {
            entered.send(()).await.unwrap();
            gate.notified().await;
            "finished"
        }),
    );
    let (address, stop, task) = listening(router.layer(Extension(Arc::clone(&gate))).layer(Extension(entered))).await;
    let in_flight = tokio::spawn(exchange(address, b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n"));
    has_entered.recv().await.unwrap();
    stop.cancel();
    hokusai_testbed::eventually("the listener is closed", Duration::from_secs(5), async || TcpStream::connect(address).await.err()).await;
    assert!(!task.is_finished());
    gate.notify_one();
    assert!(in_flight.await.unwrap().ends_with("finished"));
    task.await.unwrap().unwrap();
}
