//! `GET /api/v1/events`: every change of every registration as it happens, as server-sent events.
//!
//! The stream reads the registrations' history, so it tells what is committed and nothing else, whichever process
//! committed it. An event's id is its place in that history, by time; a client that reconnects with `Last-Event-ID` goes
//! on behind it. A transaction may commit a little after a later one did: while connected, the last [`OVERLAP`] is
//! therefore read again each time and what was already sent is left out.

use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::{Stream, stream};
use hokusai_db::Database;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{
    Api,
    history::{Change, Place, changes},
    problem::{self, Document, Kind, Problem},
    serve::Stopping,
    wire::ChangeView,
};

/// How soon a change is told.
const POLL: Duration = Duration::from_millis(500);
/// The pause after the database did not answer.
const PAUSE: Duration = Duration::from_secs(2);
/// How late a transaction may commit, compared with one that began after it, and still be told.
const OVERLAP: Duration = Duration::from_secs(2);
const PAGE: u32 = 500;
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Streams served at once.
const MAX_STREAMS: usize = 128;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Room for streams.
#[derive(Debug, Clone)]
pub(crate) struct Streams(Arc<Semaphore>);

impl Default for Streams {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_STREAMS)))
    }
}

/// Tells every change of a registration as it happens.
///
/// Each event is named `registration`; its data is a change. Without `Last-Event-ID` the stream begins now.
#[utoipa::path(get, path = "/api/v1/events", operation_id = "streamEvents", tag = "registrations",
    params(("Last-Event-ID" = Option<String>, Header, description = "The id of the last event received; browsers send it by themselves.")),
    responses(
        (status = 200, description = "A stream that does not end.", body = ChangeView, content_type = "text/event-stream"),
        (status = 400, description = "The id is none of ours.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 503, description = "Too many streams are open.", body = Document, content_type = problem::CONTENT_TYPE),
    ))]
pub(crate) async fn events(
    State(api): State<Api>,
    Extension(streams): Extension<Streams>,
    stopping: Option<Extension<Stopping>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let start = match headers.get(LAST_EVENT_ID) {
        Some(id) => id
            .to_str()
            .ok()
            .and_then(read_id)
            .ok_or_else(|| Problem::parameter("Last-Event-ID", "must be the id of an event of this stream"))?,
        None => Place { at_ms: jiff::Timestamp::now().as_millisecond(), registration_id: String::new(), number: 0 },
    };
    let place = streams.0.try_acquire_owned();
    let place = place
        .map_err(|_| Problem::new(Kind::Unavailable, format!("{MAX_STREAMS} streams are open, and no more are served.")).retry_after(30))?;
    let stopping = stopping.map_or_else(CancellationToken::new, |Extension(Stopping(token))| token);
    let tail = Tail { database: api.database, floor: start, sent: BTreeSet::new(), waiting: VecDeque::new() };
    let mut response = Sse::new(told(tail, stopping, place)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // Or a proxy of the nginx kind keeps events back until it has a bufferful.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// The changes, one by one, until the server stops. `place` is given back when the stream is dropped.
fn told(tail: Tail, stopping: CancellationToken, place: OwnedSemaphorePermit) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold((tail, stopping, place), async |(mut tail, stopping, place)| {
        let change = stopping.run_until_cancelled(tail.next()).await?;
        let id = write_id(&change.place);
        let data = serde_json::to_string(&ChangeView::from(change)).expect("a change serialises");
        Some((Ok(Event::default().event("registration").id(id).data(data)), (tail, stopping, place)))
    })
}

/// The place in the history up to which a client was told.
struct Tail {
    database: Database,
    /// Everything up to here was told, or is of no interest.
    floor: Place,
    /// What was told behind the floor.
    sent: BTreeSet<Place>,
    waiting: VecDeque<Change>,
}

impl Tail {
    async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.waiting.pop_front() {
                return change;
            }
            match self.read().await {
                Ok(()) if self.waiting.is_empty() => tokio::time::sleep(POLL).await,
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the stream of events cannot read the history");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Reads what is new, then lifts the floor to [`OVERLAP`] before the newest.
    async fn read(&mut self) -> Result<(), hokusai_db::Error> {
        let mut from = self.floor.clone();
        loop {
            let page = changes(&self.database, &from, PAGE).await?;
            let last = page.len() < PAGE as usize;
            for change in page {
                from = change.place.clone();
                if self.sent.insert(change.place.clone()) {
                    self.waiting.push_back(change);
                }
            }
            if last || self.waiting.len() >= PAGE as usize {
                break;
            }
        }
        self.lift(from.at_ms - i64::try_from(OVERLAP.as_millis()).unwrap_or(0));
        Ok(())
    }

    fn lift(&mut self, at_ms: i64) {
        if at_ms > self.floor.at_ms {
            self.floor = Place { at_ms, registration_id: String::new(), number: 0 };
            self.sent = self.sent.split_off(&self.floor);
        }
    }
}

fn write_id(place: &Place) -> String {
    format!("{}-{}-{}", place.at_ms, place.number, place.registration_id)
}

fn read_id(id: &str) -> Option<Place> {
    let mut parts = id.splitn(3, '-');
    let (at_ms, number, registration_id) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Place { at_ms: at_ms.parse().ok()?, registration_id: registration_id.to_owned(), number: number.parse().ok()? })
}
