//! Pushes: callers that push at the same time share one command.
//!
//! The first of them opens a batch, lets the others on its thread have their turn, and then sends what has gathered. Whichever
//! of its callers is looked at when there is something to do for the batch does it, so none depends on another that was
//! dropped or sleeps.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
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
    open: Mutex<Option<Arc<Batch>>>,
}

impl fmt::Debug for Pushes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pushes").finish_non_exhaustive()
    }
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
            self.join(entries, bytes).await
        } else {
            send(&self.link, &self.main, entries).await
        }
    }

    /// A place in the open batch, or in a new one.
    fn join(&self, entries: &[Bytes], bytes: usize) -> Member {
        let mut open = self.open.lock();
        if let Some(batch) = &*open
            && let Some(place) = batch.add(entries, bytes)
        {
            return Member { batch: batch.clone(), place };
        }
        let batch = Arc::new(Batch(Mutex::new(State {
            entries: Some(entries.to_vec()),
            bytes,
            work: None,
            due: true,
            callers: vec![None],
            left: 1,
            sent: None,
        })));
        let (link, main, gathered) = (self.link.clone(), self.main.clone(), Arc::downgrade(&batch));
        let work = async move {
            tokio::task::yield_now().await;
            let entries = gathered.upgrade().and_then(|batch| batch.0.lock().entries.take()).unwrap_or_default();
            send(&link, &main, &entries).await
        };
        batch.0.lock().work = Some(work.boxed());
        *open = Some(batch.clone());
        Member { batch, place: 0 }
    }
}

struct Leaves<'a>(&'a AtomicUsize);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Batch(Mutex<State>);

struct State {
    /// `None` once they are on their way.
    entries: Option<Vec<Bytes>>,
    bytes: usize,
    /// Gathers, sends, and waits for the answer; absent while one of the callers looks at it.
    work: Option<BoxFuture<'static, RedisResult<()>>>,
    /// Whether `work` wants to be looked at.
    due: bool,
    /// How to wake each caller.
    callers: Vec<Option<Waker>>,
    /// Callers that have not left.
    left: usize,
    sent: Option<RedisResult<()>>,
}

impl Batch {
    /// The place of a new caller, if there is room.
    fn add(&self, entries: &[Bytes], bytes: usize) -> Option<usize> {
        let mut state = self.0.lock();
        if state.left == 0 || state.bytes + bytes > MOST_BYTES {
            return None;
        }
        let gathered = state.entries.as_mut().filter(|gathered| gathered.len() + entries.len() <= PUSH)?;
        gathered.extend_from_slice(entries);
        state.bytes += bytes;
        state.left += 1;
        state.callers.push(None);
        Some(state.callers.len() - 1)
    }
}

impl State {
    /// While entries gather, two callers are enough to go on; afterwards all have something to hear.
    fn whom_to_wake(&mut self) -> Vec<Waker> {
        let most = if self.entries.is_some() { 2 } else { usize::MAX };
        self.callers.iter_mut().filter_map(Option::take).take(most).collect()
    }
}

/// `work` wants to be looked at.
impl Wake for Batch {
    fn wake(self: Arc<Self>) {
        let callers = {
            let mut state = self.0.lock();
            state.due = true;
            state.whom_to_wake()
        };
        callers.into_iter().for_each(Waker::wake);
    }
}

/// One caller's part in a batch.
struct Member {
    batch: Arc<Batch>,
    place: usize,
}

impl Future for Member {
    type Output = RedisResult<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut state = self.batch.0.lock();
            if let Some(sent) = &state.sent {
                return Poll::Ready(sent.clone());
            }
            match &mut state.callers[self.place] {
                Some(known) => known.clone_from(cx.waker()),
                unknown => *unknown = Some(cx.waker().clone()),
            }
            let Some(mut work) = state.due.then(|| state.work.take()).flatten() else { return Poll::Pending };
            state.due = false;
            drop(state);
            let looked = work.as_mut().poll(&mut Context::from_waker(&Waker::from(self.batch.clone())));
            let mut state = self.batch.0.lock();
            match looked {
                Poll::Ready(sent) => {
                    state.sent = Some(sent);
                    let others = state.whom_to_wake();
                    drop(state);
                    others.into_iter().for_each(Waker::wake);
                }
                // It may have become due again meanwhile.
                Poll::Pending => state.work = Some(work),
            }
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut state = self.batch.0.lock();
        state.callers[self.place] = None;
        state.left -= 1;
        // Nobody waits for it any more; and what it waits for must not keep it.
        let work = if state.left == 0 { (state.work.take(), state.entries.take()) } else { (None, None) };
        let others = if state.due { state.whom_to_wake() } else { vec![] };
        drop(state);
        drop(work);
        others.into_iter().for_each(Waker::wake);
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
