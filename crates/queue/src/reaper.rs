//! The reaper: brings back what nobody finishes, whoever took it.
//!
//! Every pass promotes what is due, leases what lies in processing without a lease, and decides about the entries whose
//! lease has run out: back to main with the expiry counted, which changes their bytes and so fences whoever had them; or
//! to the dead-letter queue at the cap, or if their envelope cannot be read. Any number of reapers may run at once.
//!
//! How long an entry waits whose worker died: at most one interval until it is first seen, the lease, and one interval more.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{ConfigError, Error, LeaseTerms, Move, Queue, Settled, State, Survey, attempts, dead_letter};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How a reaper works.
#[derive(Debug, Clone)]
pub struct ReaperConfig {
    /// The time between two passes; also how late a delayed entry may be.
    pub interval: Duration,
    /// The lease at first sight and the rest.
    pub terms: LeaseTerms,
    /// How many expiries dead-letter a message.
    pub max_expiries: u32,
    /// Where to send what each pass did, if anywhere; a full channel drops it.
    pub reports: Option<mpsc::Sender<Report>>,
}

impl Default for ReaperConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), terms: LeaseTerms::default(), max_expiries: 3, reports: None }
    }
}

impl ReaperConfig {
    /// Checks the relations between the settings.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the setting that has to change.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.interval.is_zero() {
            Err(ConfigError::new("reaper interval", "must be longer than nothing"))
        } else if self.terms.outage_after <= self.interval {
            Err(ConfigError::new("reaper outage", "must be longer than the interval between passes, or no lease ever runs out"))
        } else if self.terms.first_sight.is_zero() {
            Err(ConfigError::new("PROCESSING_TIMEOUT", "must be longer than nothing"))
        } else if self.terms.batch == 0 || self.max_expiries == 0 {
            Err(ConfigError::new("reaper batch and max expiries", "must be at least 1"))
        } else {
            Ok(())
        }
    }
}

/// What one pass did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What was found.
    pub survey: Survey,
    /// Entries put back into main.
    pub returned: u64,
    /// Entries dead-lettered.
    pub dead: Vec<Dead>,
}

/// A message the reaper has dead-lettered.
#[derive(Debug, Clone)]
pub struct Dead {
    /// The message as it was.
    pub entry: Bytes,
    /// [`dead_letter::EXPIRED`] or [`dead_letter::UNPARSABLE`].
    pub kind: &'static str,
    /// Why, for people.
    pub error: String,
}

/// Passes until `shutdown`. Errors are logged and waited out, with a pause that grows.
pub async fn run(queue: Arc<dyn Queue>, config: ReaperConfig, shutdown: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    loop {
        let wait = match pass(&*queue, &config).await {
            Ok(report) => {
                pause = FIRST_PAUSE;
                let more = report.survey.more;
                tell(&*queue, &config, report);
                if more { Duration::ZERO } else { config.interval }
            }
            Err(error) => {
                tracing::warn!(queue = queue.name(), %error, "the reaper could not finish its pass");
                pause = (pause * 2).min(LONGEST_PAUSE);
                pause
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// One pass.
///
/// # Errors
///
/// The queue's own; what the pass had done stays done.
pub async fn pass(queue: &dyn Queue, config: &ReaperConfig) -> Result<Report, Error> {
    let survey = queue.survey(&config.terms).await?;
    let decisions: Vec<(Move, Option<Dead>)> =
        survey.expired.iter().map(|entry| decide(entry, queue.name(), config.max_expiries)).collect();
    let mut report = Report { survey, ..Report::default() };
    let (moves, dead): (Vec<Move>, Vec<Option<Dead>>) = decisions.into_iter().unzip();
    let answers = if moves.is_empty() { vec![] } else { queue.settle(&moves).await? };
    for (dead, answer) in dead.into_iter().zip(answers) {
        match (answer, dead) {
            (Settled::Done, Some(dead)) => report.dead.push(dead),
            (Settled::Done, None) => report.returned += 1,
            (Settled::NotYours, _) => {}
        }
    }
    Ok(report)
}

/// Where an entry goes whose lease has run out.
fn decide(entry: &Bytes, queue: &str, max_expiries: u32) -> (Move, Option<Dead>) {
    let bury = |kind: &'static str, error: String| {
        let with = dead_letter::build(entry, queue, kind, &error, jiff::Timestamp::now());
        (Move::Expire { entry: entry.clone(), with, to: State::Dlq }, Some(Dead { entry: entry.clone(), kind, error }))
    };
    let counted = attempts::read(entry).and_then(|attempts| Ok((attempts.expiries.saturating_add(1), attempts::after_expiry(entry)?)));
    match counted {
        Err(error) => bury(dead_letter::UNPARSABLE, error.to_string()),
        Ok((expiries, _)) if expiries >= max_expiries => {
            bury(dead_letter::EXPIRED, format!("its lease ran out {expiries} times: whoever takes it dies or hangs"))
        }
        Ok((_, with)) => (Move::Expire { entry: entry.clone(), with, to: State::Main }, None),
    }
}

fn tell(queue: &dyn Queue, config: &ReaperConfig, report: Report) {
    for dead in &report.dead {
        tracing::warn!(queue = queue.name(), kind = dead.kind, error = dead.error, "the reaper dead-lettered a message");
    }
    if report.returned > 0 || report.survey.renewed > 0 {
        tracing::info!(
            queue = queue.name(),
            returned = report.returned,
            renewed = report.survey.renewed,
            "leases had run out or were renewed"
        );
    }
    if let Some(reports) = &config.reports {
        let _ = reports.try_send(report);
    }
}
