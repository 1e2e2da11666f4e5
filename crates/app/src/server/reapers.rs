//! A reaper for every queue the server knows, those subscribed while it runs included.

use std::{collections::HashSet, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use hokusai_db::Database;
use hokusai_queue::reaper;
use hokusai_registry::Subscriptions;
use tokio_util::sync::CancellationToken;

use crate::{assembly::Queues, config::QueueConfig, roles};

/// How long a new subscription may be without a reaper.
const INTERVAL: Duration = Duration::from_secs(2);

/// Runs until shutdown. A queue that is no longer subscribed keeps its reaper: what lies in it still has to come back.
pub(super) async fn run(db: &Database, queues: &Queues, config: &QueueConfig, shutdown: &CancellationToken) {
    let subscriptions = Subscriptions::new(db.clone());
    let mut known = HashSet::new();
    let mut running = FuturesUnordered::new();
    loop {
        match subscriptions.list().await {
            Ok(list) => {
                for name in list.into_iter().map(|subscription| subscription.queue) {
                    if known.contains(&name) {
                        continue;
                    }
                    match queues.open(&name) {
                        Ok(queue) => {
                            running.push(reaper::run(queue, roles::reaper_config(config), shutdown.clone()));
                            known.insert(name);
                        }
                        Err(error) => tracing::warn!(queue = name, %error, "the queue cannot be opened for its reaper"),
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "the reapers cannot read the subscriptions"),
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(INTERVAL) => {}
            // A reaper ends only at shutdown.
            Some(()) = running.next() => {}
        }
    }
    while running.next().await.is_some() {}
}
