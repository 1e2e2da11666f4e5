//! Wakes takes that wait in the same process, whichever handle the push went through.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
};

use tokio::sync::Notify;

/// By database and queue. Only the handles keep a bell alive.
type Bells = HashMap<(String, String), Weak<Notify>>;

static BELLS: LazyLock<Mutex<Bells>> = LazyLock::new(Mutex::default);

pub(super) fn of(database: &str, queue: &str) -> Arc<Notify> {
    let mut bells = BELLS.lock().unwrap_or_else(PoisonError::into_inner);
    bells.retain(|_, bell| bell.strong_count() > 0);
    let bell = bells.entry((database.to_owned(), queue.to_owned())).or_default();
    bell.upgrade().unwrap_or_else(|| {
        let fresh = Arc::new(Notify::new());
        *bell = Arc::downgrade(&fresh);
        fresh
    })
}
