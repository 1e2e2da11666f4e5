//! The stream of events: complete, resumable, ended by the server's end.

use std::time::Duration;

use axum::body::BodyDataStream;
use futures_util::StreamExt as _;
use hokusai_registry::{Status, note_step};

use super::{super::serve::Stopping, *};

/// A client reading the stream.
struct Reader {
    body: BodyDataStream,
    read: String,
}

#[derive(Debug, PartialEq)]
struct Told {
    id: String,
    event: String,
    data: Value,
}

impl Reader {
    async fn open(router: &Router, last_event_id: Option<&str>) -> Self {
        let mut request = Request::get("/api/v1/events");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!((response.status(), &response.headers()["content-type"]), (StatusCode::OK, &"text/event-stream".parse().unwrap()));
        Self { body: response.into_body().into_data_stream(), read: String::new() }
    }

    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Told> {
        while !self.read.contains("\n\n") {
            let chunk = tokio::time::timeout(Duration::from_secs(10), self.body.next()).await.expect("an event or the end within 10 s")?;
            self.read.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
        let (event, rest) = self.read.split_once("\n\n").map(|(event, rest)| (event.to_owned(), rest.to_owned())).unwrap();
        self.read = rest;
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
        Some(Told { id: field("id:"), event: field("event:"), data: serde_json::from_str(&field("data:")).unwrap() })
    }
}

async fn step(server: &Server, message_id: &str, status: Status) {
    let mut tx = server.api.database.write().await.unwrap();
    assert!(note_step(&mut tx, message_id, Some(status), status.as_str(), &json!({})).await.unwrap());
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn every_change_is_told_once_and_a_reader_goes_on_where_it_was() {
    let server = Server::start().await;
    let mut reader = Reader::open(&server.router, None).await;
    let registered = server.register(&good()).await;
    step(&server, &registered.text("message_id"), Status::Deploying).await;

    let first = reader.next().await.unwrap();
    let mut shown = first.data.clone();
    mask(&mut shown);
    shown["detail"] = json!("…");
    assert_eq!((first.event.as_str(), &first.data["registration_id"]), ("registration", &registered.json()["registration_id"]));
    insta::assert_snapshot!(serde_json::to_string_pretty(&shown).unwrap(), @r#"
    {
      "registration_id": "[uuid]",
      "status": "deploying",
      "model_id": "chat-model/1/msg-ai",
      "token_id": "msg-ai",
      "number": 1,
      "at": "[time]",
      "step": "queued",
      "detail": "…"
    }
    "#);
    let second = reader.next().await.unwrap();
    assert_eq!((second.data["number"].as_i64(), second.data["step"].as_str()), (Some(2), Some("deploying")));

    let mut resumed = Reader::open(&server.router, Some(&first.id)).await;
    assert_eq!(resumed.next().await.unwrap(), second);
    step(&server, &registered.text("message_id"), Status::Deployed).await;
    assert_eq!(resumed.next().await.unwrap().data["number"], 3);
    assert_eq!(reader.next().await.unwrap().data["number"], 3);
}

#[tokio::test]
async fn an_id_that_is_none_of_ours_is_refused() {
    let server = Server::start().await;
    let request = Request::get("/api/v1/events").header("last-event-id", "yesterday");
    insta::assert_snapshot!(server.send(request.body(Body::empty()).unwrap()).await.shown(), @r#"
    400 application/problem+json
    {
      "type": "urn:hokusai:problem:bad-parameter",
      "title": "A parameter or header is not acceptable",
      "status": 400,
      "detail": "`Last-Event-ID` is not acceptable; see `errors`.",
      "instance": "/api/v1/events",
      "request_id": "[uuid]",
      "errors": [
        {
          "field": "Last-Event-ID",
          "problem": "must be the id of an event of this stream"
        }
      ]
    }
    "#);
}

#[tokio::test]
async fn streams_end_when_the_server_stops_and_are_bounded_in_number() {
    let server = Server::start().await;
    let stop = CancellationToken::new();
    let router = server.router.clone().layer(axum::Extension(Stopping(stop.clone())));
    let mut readers = Vec::new();
    for _ in 0..128 {
        readers.push(Reader::open(&router, None).await);
    }
    let refused = answer(&router, Request::get("/api/v1/events").body(Body::empty()).unwrap()).await;
    assert_eq!((refused.status, refused.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, Some("30")));
    stop.cancel();
    assert_eq!(readers.pop().unwrap().next().await, None);
    readers.clear();
    Reader::open(&router, None).await;
}
