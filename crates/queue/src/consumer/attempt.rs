//! One run of a handler: bounded in time, and a panic is no more than a failure.

use std::{any::Any, panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::poll_immediate};

use super::{Delivery, Handler, Verdict};

pub(super) async fn attempt(handler: Arc<dyn Handler>, delivery: Delivery, timeout: Duration) -> Verdict {
    let mut work = pin!(AssertUnwindSafe(async { handler.handle(&delivery).await }).catch_unwind());
    // Most handlers that do no waiting are done at once, and need no timer.
    let outcome = match poll_immediate(&mut work).await {
        Some(outcome) => Ok(outcome),
        None => tokio::time::timeout(timeout, work).await,
    };
    match outcome {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(panic)) => Verdict::Retry { error: format!("the handler panicked: {}", message_of(&*panic)) },
        Err(_) => Verdict::Retry { error: format!("the handler did not finish within {timeout:?}") },
    }
}

fn message_of(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
