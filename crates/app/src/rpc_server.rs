//! JSON-RPC over HTTP for the embedded chain, so that `cast`, wallets and scripts can look at what `dev` deploys.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use hokusai_deploy::embedded::EmbeddedChain;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A signed transaction may have 128 KiB, twice that in hex; a batch of some dozen fits.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// Binds now, so that a port that is taken is an error before anything else starts.
pub(crate) async fn bind(address: SocketAddr, variable: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{variable}: {address} cannot be listened on (is another hokusai or a node running?)"))
}

pub(crate) async fn serve(listener: TcpListener, chain: Arc<EmbeddedChain>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let router = Router::new().route("/", post(answer)).layer(DefaultBodyLimit::max(MAX_BODY_BYTES)).with_state(chain);
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await?;
    Ok(())
}

/// A web page can make a browser post to any address, but not with this content type without asking first (CORS), and
/// nothing here answers that it may.
async fn answer(State(chain): State<Arc<EmbeddedChain>>, headers: HeaderMap, body: Bytes) -> Response {
    let json =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| value.starts_with("application/json"));
    if !json {
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, "JSON-RPC: the content type must be application/json\n").into_response();
    }
    match chain.respond(&body).await {
        // Nothing but notifications came, which are not answered.
        answer if answer.is_empty() => StatusCode::NO_CONTENT.into_response(),
        answer => ([(header::CONTENT_TYPE, "application/json")], answer).into_response(),
    }
}
