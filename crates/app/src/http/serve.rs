//! Accepts connections and serves the router on them until told to stop.
//!
//! HTTP/1.1 only: TLS and HTTP/2 end at the load balancer. Slow clients are bounded: a request head must arrive in
//! [`HEAD_PATIENCE`], which also ends idle connections, and there is a limit on headers, their bytes and connections.

use std::{io, sync::Arc, time::Duration};

use axum::{Router, extract::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::Service as _;

/// How long a client may take to send the head of a request.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// How long requests in flight may take to finish once the server is stopping.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// Connections served at once; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 1024;
const MAX_HEADERS: usize = 64;
/// The bytes of a request head; hyper answers 431 beyond.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// After a failed accept (out of file descriptors, most likely) others get time to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Tells streams that never end by themselves that the server is stopping.
#[derive(Debug, Clone)]
pub(crate) struct Stopping(pub(crate) CancellationToken);

/// Serves until `shutdown`; then stops accepting, ends streams, and finishes what is in flight, for at most 20 s.
///
/// # Errors
///
/// Never by itself today; the signature leaves room for a listener that breaks for good.
pub(crate) async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    let stopping = Stopping(shutdown.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(stopping.clone());
        router.clone().call(request)
    });
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Some((stream, place)) = shutdown.run_until_cancelled(next_connection(&listener, &places)).await {
        while connections.try_join_next().is_some() {}
        let connection = connection_builder().serve_connection(TokioIo::new(stream), service.clone());
        let watched = graceful.watch(connection);
        connections.spawn(async move {
            // A client that goes away or speaks nonsense is its own affair.
            if let Err(error) = watched.await {
                tracing::debug!(%error, "connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(STOP_PATIENCE, graceful.shutdown()).await.is_err() {
        tracing::warn!(open = connections.len(), "requests were cut off: they did not finish in {} s", STOP_PATIENCE.as_secs());
    }
    connections.shutdown().await;
    Ok(())
}

async fn next_connection(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are small and wait for nothing more.
                let _ = stream.set_nodelay(true);
                return (stream, place);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn connection_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD_BYTES);
    builder
}
