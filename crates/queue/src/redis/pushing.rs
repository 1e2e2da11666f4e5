//! Pushes: callers that push at the same time share one command.
//!
//! The first of them opens a batch, lets the others on its thread have their turn, and then sends what has gathered. A batch
//! is a shared future: each of its callers drives it, so none depends on another that was dropped or sleeps.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use redis::{Cmd, Pipeline, RedisResult, Value};

use super::link::Link;

/// Entries pushed by one LPUSH.
const PUSH: usize = 1000;
/// Bytes that gather in one batch.
const MOST_BYTES: usize = 1 << 20;

pub(super) struct Pushes {
    link: Arc<Link>,
    main: Arc<str>,
    /// Callers that are pushing.
    callers: AtomicUsize,
    open: Mutex<Option<Batch>>,
}

impl std::fmt::Debug for Pushes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pushes").finish_non_exhaustive()
    }
}

struct Batch {
    /// `None` once it is sent.
    entries: Arc<Mutex<Option<Vec<Bytes>>>>,
    bytes: usize,
    sent: Shared<BoxFuture<'static, RedisResult<()>>>,
}

impl Pushes {
    pub(super) fn new(link: Arc<Link>, main: &str) -> Self {
        Self { link, main: main.into(), callers: AtomicUsize::new(0), open: Mutex::new(None) }
    }

    /// Pushes the entries, the oldest first.
    pub(super) async fn push(&self, entries: &[Bytes]) -> RedisResult<()> {
        let bytes = entries.iter().map(Bytes::len).sum();
        let others = self.callers.fetch_add(1, Ordering::Relaxed) > 0;
        let _caller = Leaves(&self.callers);
        if entries.is_empty() {
            Ok(())
        } else if others && bytes < MOST_BYTES && entries.len() < PUSH {
            let sent = self.join(entries, bytes);
            sent.await
        } else {
            send(&self.link, &self.main, entries).await
        }
    }

    /// Adds the entries to the open batch, or opens one.
    fn join(&self, entries: &[Bytes], bytes: usize) -> Shared<BoxFuture<'static, RedisResult<()>>> {
        let mut open = self.open.lock();
        if let Some(batch) = &mut *open
            && batch.bytes + bytes <= MOST_BYTES
            && let Some(gathered) = &mut *batch.entries.lock()
            && gathered.len() + entries.len() <= PUSH
        {
            gathered.extend_from_slice(entries);
            batch.bytes += bytes;
            return batch.sent.clone();
        }
        let gathered = Arc::new(Mutex::new(Some(entries.to_vec())));
        let (link, main, taken) = (self.link.clone(), self.main.clone(), gathered.clone());
        let sent = async move {
            tokio::task::yield_now().await;
            let entries = taken.lock().take().unwrap_or_default();
            send(&link, &main, &entries).await
        };
        let sent = sent.boxed().shared();
        *open = Some(Batch { entries: gathered, bytes, sent: sent.clone() });
        sent
    }
}

struct Leaves<'a>(&'a AtomicUsize);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn send(link: &Link, main: &str, entries: &[Bytes]) -> RedisResult<()> {
    let mut commands = Pipeline::with_capacity(entries.len().div_ceil(PUSH));
    for chunk in entries.chunks(PUSH) {
        let bytes: usize = chunk.iter().map(Bytes::len).sum();
        let mut push = Cmd::with_capacity(chunk.len() + 2, bytes + main.len() + 8);
        push.arg(b"LPUSH").arg(main);
        for entry in chunk {
            push.arg(&entry[..]);
        }
        commands.add_command(push);
    }
    link.exchange(&commands).await?.into_iter().try_for_each(|answer| Value::extract_error(answer).map(drop))
}
