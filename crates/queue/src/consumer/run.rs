//! The consumer's loop: what happens goes to the desk, what the desk decides is carried out here.

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Consumer, Handler, Status, Summary, Verdict,
    attempt::attempt,
    desk::{Away, Desk},
    settlement::{Settlement, settle},
};
use crate::{ConsumerConfig, Error, Move, Pause, Queue, Settled, Taken};

/// How long one wait for a first message lasts at most, because a shutdown lets it finish.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How often it is asked whether somebody has paused the queue: beside the hot path, so that no take waits for it.
const PAUSE_CHECK: Duration = Duration::from_secs(1);
/// Settlements under way at once; more steps gather meanwhile and go together.
const SETTLEMENTS: usize = 4;
/// Takes under way at once while there is plenty to take: the server has the next to do while one's entries are handled.
const TAKES: usize = 2;
/// Handlers started before whatever else runs on this thread has its turn, the connection included.
const TURN: usize = 64;
/// Or as many as are begun in this time.
const LONGEST_TURN: Duration = Duration::from_millis(5);

pub(super) async fn run(consumer: Consumer, handler: Arc<dyn Handler>, shutdown: CancellationToken) -> Result<Summary, Error> {
    let Consumer { queue, config, verdicts, status, holder: _holder } = consumer;
    let mut run = Run {
        desk: Desk::new(config.clone(), queue.name(), Instant::now()),
        queue,
        handler,
        config,
        verdicts,
        status,
        stop: shutdown.child_token(),
        running: FuturesUnordered::new(),
        settling: FuturesUnordered::new(),
        taking: FuturesUnordered::new(),
        asked_for: 0,
        flowing: false,
        gives_way: false,
        extending: None,
        asking: None,
        asked: None,
        summary: Summary::default(),
        fatal: None,
    };
    while !run.advance() {
        if std::mem::take(&mut run.gives_way) {
            tokio::task::yield_now().await;
        }
        if !run.start() {
            let event = run.next_event().await;
            run.on(event);
        }
    }
    run.status.send_replace(Status::Stopped);
    run.fatal.map_or(Ok(run.summary), Err)
}

struct Run {
    queue: Arc<dyn Queue>,
    handler: Arc<dyn Handler>,
    config: ConsumerConfig,
    verdicts: mpsc::UnboundedReceiver<(Bytes, Verdict)>,
    status: watch::Sender<Status>,
    /// Cancelled by the caller's shutdown, by the limit, or by an error.
    stop: CancellationToken,
    desk: Desk,
    running: FuturesUnordered<BoxFuture<'static, (usize, Verdict)>>,
    settling: FuturesUnordered<BoxFuture<'static, Settlement>>,
    taking: FuturesUnordered<BoxFuture<'static, Take>>,
    /// How many entries the takes under way may bring.
    asked_for: usize,
    /// Whether the last take brought half of what it asked for or more: there is more where that came from.
    flowing: bool,
    /// Whether others on this thread have their turn now: a connection that is to send a take, so that it is under way while
    /// handlers run; or whoever has waited for many handlers.
    gives_way: bool,
    extending: Option<Asked<Vec<Settled>>>,
    /// Whether the queue is paused, being asked.
    asking: Option<BoxFuture<'static, Result<Option<Pause>, Error>>>,
    /// When that was answered last; nothing is taken before the first answer.
    asked: Option<Instant>,
    summary: Summary,
    fatal: Option<Error>,
}

/// A question to the queue: the entries it is about, and the answer.
type Asked<T> = BoxFuture<'static, (Vec<Bytes>, Result<T, Error>)>;

/// A take that has ended: what it asked for, the acks that it carried, and its answer.
struct Take {
    wanted: usize,
    acks: Vec<Bytes>,
    taken: Result<Taken, Error>,
}

enum Event {
    Stop,
    Handled(usize, Verdict),
    Took(Take),
    Settled(Settlement),
    Extended(Vec<Bytes>, Result<Vec<Settled>, Error>),
    Verdict(Bytes, Verdict),
    Asked(Result<Option<Pause>, Error>),
    Time,
}

impl Run {
    /// Starts whatever can be started now. True when all is over.
    fn advance(&mut self) -> bool {
        let now = Instant::now();
        if self.desk.limit_reached() {
            self.stop.cancel();
        }
        if self.stop.is_cancelled() && !self.desk.is_stopping() {
            self.desk.stop();
        }
        if self.desk.is_stopping() && self.taking.is_empty() {
            self.desk.give_back();
        }
        self.extend(now);
        self.ask(now);
        // What came alone is handled first, so that its ack rides with the next take.
        if !self.flowing {
            self.start();
        }
        self.take(now);
        self.desk.flush_acks(!self.taking.is_empty(), now);
        if !self.desk.steps.is_empty() && self.settling.len() < SETTLEMENTS {
            let steps = std::mem::take(&mut self.desk.steps);
            self.settling.push(settle(self.queue.clone(), self.handler.clone(), steps, self.stop.clone()).boxed());
        }
        let status = self.desk.status();
        self.status.send_if_modified(|current| {
            let changed = *current != status;
            *current = status;
            changed
        });
        self.desk.is_stopping() && self.desk.is_empty() && self.taking.is_empty() && self.settling.is_empty()
    }

    /// Starts handlers. Most wait for nothing and are over at once; the others are looked at again with whatever else is
    /// under way. True if one was over.
    fn start(&mut self) -> bool {
        let began = Instant::now();
        let (mut now, mut over) = (began, false);
        for _ in 0..TURN {
            if now > began + LONGEST_TURN {
                break;
            }
            let quiet = self.settling.is_empty() && self.taking.is_empty();
            let Some((slot, delivery)) = self.desk.next(quiet, now) else { return over };
            let mut work = attempt(self.handler.clone(), delivery, self.config.handler_timeout).boxed();
            match (&mut work).now_or_never() {
                Some(verdict) => {
                    now = Instant::now();
                    self.desk.conclude(slot, verdict, now);
                    over = true;
                }
                None => self.running.push(work.map(move |verdict| (slot, verdict)).boxed()),
            }
        }
        self.gives_way = true;
        over
    }

    /// Asks whether somebody has paused the queue, when that is due.
    fn ask(&mut self, now: Instant) {
        let due = self.asked.map_or(!self.desk.is_pausing(now), |asked| now >= asked + PAUSE_CHECK);
        if self.asking.is_some() || !due {
            return;
        }
        let queue = self.queue.clone();
        self.asking = Some(
            async move {
                match queue.upkeep() {
                    Some(upkeep) => upkeep.pause().await,
                    None => Ok(None),
                }
            }
            .boxed(),
        );
    }

    /// An answer that does not come changes nothing: the next take will say what is wrong.
    fn answered(&mut self, pause: Result<Option<Pause>, Error>, now: Instant) {
        match pause {
            Ok(pause) => {
                if self.asked.replace(now).is_none() {
                    self.desk.queue_answered();
                }
                self.desk.order(pause);
            }
            Err(error) if self.asked.is_some() => {
                self.asked = Some(now);
                tracing::debug!(%error, "whether the queue is paused could not be asked");
            }
            Err(error) if error.is_outage() => self.desk.pause(Away::Queue, error.to_string(), now),
            Err(error) => self.fail(error),
        }
    }

    /// Takes what there is room for. Only one take waits for a first entry; a second one is sent behind it while there is
    /// plenty.
    fn take(&mut self, now: Instant) {
        while self.asked.is_some() && self.taking.len() < if self.flowing { TAKES } else { 1 } {
            let wanted = self.desk.wanted(self.asked_for, now);
            if wanted == 0 {
                return;
            }
            let wait = if self.taking.is_empty() { self.config.wait.min(LONGEST_WAIT) } else { Duration::ZERO };
            let (queue, acks) = (self.queue.clone(), self.desk.take_acks());
            let take = async move {
                let taken = queue.take(wanted, wait, &acks).await;
                Take { wanted, acks, taken }
            };
            self.taking.push(begun(take.boxed()));
            self.asked_for += wanted;
            self.gives_way = self.flowing;
        }
    }

    fn extend(&mut self, now: Instant) {
        let due = if self.extending.is_none() { self.desk.look_after(now) } else { vec![] };
        if due.is_empty() {
            return;
        }
        let (queue, lease) = (self.queue.clone(), self.config.lease);
        self.extending = Some(
            async move {
                let moves: Vec<Move> = due.iter().map(|entry| Move::Extend { entry: entry.clone(), lease }).collect();
                let answers = queue.settle(&moves).await;
                (due, answers)
            }
            .boxed(),
        );
    }

    async fn next_event(&mut self) -> Event {
        let mut wake_at = self.desk.wake_at(Instant::now());
        if let (Some(asked), None) = (self.asked, &self.asking) {
            wake_at = wake_at.min(asked + PAUSE_CHECK);
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled(), if !self.desk.is_stopping() => Event::Stop,
            Some((slot, verdict)) = self.running.next(), if !self.running.is_empty() => Event::Handled(slot, verdict),
            Some(take) = self.taking.next(), if !self.taking.is_empty() => Event::Took(take),
            Some(settlement) = self.settling.next(), if !self.settling.is_empty() => Event::Settled(settlement),
            (entries, answers) = when(&mut self.extending) => Event::Extended(entries, answers),
            Some((entry, verdict)) = self.verdicts.recv() => Event::Verdict(entry, verdict),
            pause = when(&mut self.asking) => Event::Asked(pause),
            () = tokio::time::sleep_until(wake_at.into()) => Event::Time,
        }
    }

    fn on(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Stop | Event::Time => {}
            Event::Handled(slot, verdict) => self.desk.conclude(slot, verdict, now),
            Event::Took(take) => self.took(take, now),
            Event::Settled(settlement) => self.settled(settlement),
            Event::Extended(entries, answers) => self.extended(&entries, answers),
            Event::Verdict(entry, verdict) => self.desk.settle(entry, verdict, now),
            Event::Asked(pause) => self.answered(pause, now),
        }
    }

    fn took(&mut self, Take { wanted, acks, taken }: Take, now: Instant) {
        self.asked_for -= wanted;
        self.flowing = taken.as_ref().is_ok_and(|taken| wanted > 0 && taken.entries.len() * 2 >= wanted);
        match taken {
            Ok(taken) => {
                self.desk.queue_answered();
                let done = taken.acked.iter().filter(|answer| **answer == Settled::Done).count() as u64;
                self.summary.done += done;
                self.summary.lost += taken.acked.len() as u64 - done;
                if taken.entries.is_empty() && self.settling.is_empty() {
                    self.desk.found_nothing(now);
                }
                self.desk.receive(taken.entries, now);
            }
            Err(error) => {
                self.desk.return_acks(acks, now);
                if error.is_outage() {
                    self.desk.pause(Away::Queue, error.to_string(), now);
                } else {
                    self.fail(error);
                }
            }
        }
    }

    fn settled(&mut self, settlement: Settlement) {
        let Settlement { summary, failed } = settlement;
        self.summary.done += summary.done;
        self.summary.retried += summary.retried;
        self.summary.dead += summary.dead;
        self.summary.released += summary.released;
        self.summary.lost += summary.lost;
        match failed {
            Some(error) if error.is_outage() => tracing::warn!(%error, "stopped with entries unsettled; the reaper will find them"),
            Some(error) => self.fail(error),
            None => {}
        }
    }

    fn extended(&mut self, entries: &[Bytes], answers: Result<Vec<Settled>, Error>) {
        match answers {
            Ok(answers) => {
                let gone = entries.iter().zip(answers).filter(|(_, answer)| *answer == Settled::NotYours);
                self.summary.lost += gone.filter(|(entry, _)| self.desk.lose(entry)).count() as u64;
            }
            // The lease has two thirds left, and the next round comes in a third.
            Err(error) => tracing::debug!(%error, "leases could not be extended"),
        }
    }

    /// What waiting does not cure ends the run, after what is running has finished.
    fn fail(&mut self, error: Error) {
        tracing::error!(%error, "the queue cannot be used");
        self.fatal.get_or_insert(error);
        self.stop.cancel();
    }
}

/// The future, looked at once: so what it asks of a connection is on its way. Whoever waits for it looks again.
fn begun<T: Send + 'static>(mut future: BoxFuture<'static, T>) -> BoxFuture<'static, T> {
    match (&mut future).now_or_never() {
        Some(output) => std::future::ready(output).boxed(),
        None => future,
    }
}

/// The future's output when it is done, and never if there is none. Dropping this loses nothing.
async fn when<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    let Some(future) = slot else { return pending().await };
    let output = future.await;
    *slot = None;
    output
}
