//! What the reaper needs of Redis: the first meeting with a queue, and the steps of a pass.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use redis::Value;

use super::{Keys, RedisQueue, millis, scripts, unsigned};
use crate::{Error, LeaseTerms, Survey};

/// Entries one call of `lease` looks at, and calls in one pass: together the bound on a pass's walk over processing.
const STRETCH: usize = 128;
const STRETCHES: usize = 400;
/// Bytes of expired entries listed by one pass.
const EXPIRED_BYTES: usize = 8 << 20;
/// How long processing may be for a pass to look for leases without entries; beyond, they are purged when they run out.
const PURGED_WITHIN: usize = 1000;

impl RedisQueue {
    /// The first meeting: see `meet.lua`. `own` are entries in processing that are known to be no orphans.
    pub(super) async fn meet(&self, own: &[Bytes]) -> Result<(), Error> {
        let mut meet = scripts::call(&scripts::MEET, &[&self.keys.reaper, &self.keys.processing, &self.keys.leases]);
        for entry in own {
            meet.arg(&entry[..]);
        }
        let orphans = self.number(&Ok(self.ask(meet).await?))?;
        if orphans > 0 {
            tracing::warn!(
                queue = self.name,
                orphans,
                "entries were left in processing before this queue was first met; they are kept there"
            );
        }
        self.met.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// One pass, each step a script of its own: none holds the server for long.
    pub(super) async fn pass(&self, terms: &LeaseTerms) -> Result<Survey, Error> {
        self.meet(&[]).await?;
        let mut open = scripts::call(&scripts::OPEN_PASS, &[&self.keys.reaper, &self.keys.leases]);
        open.arg(millis(terms.first_sight)).arg(millis(terms.outage_after)).arg(i32::from(terms.reap_orphans));
        let answer = self.ask(open).await?;
        let Value::Array(items) = answer else { return Err(self.link.unexpected(&answer)) };
        let [renewed, walk] = &items[..] else { return Err(self.link.unexpected(&Value::Nil)) };
        let (renewed, walk) = (self.number(&Ok(renewed.clone()))?, self.number(&Ok(walk.clone()))?);
        let promoted = self.promote(terms.batch).await?;
        let (leased, cut_short) = self.lease(terms.first_sight, walk).await?;
        let more = promoted == terms.batch as u64 || cut_short;
        let mut survey = Survey { promoted, leased, renewed: unsigned(renewed), more, ..Survey::default() };
        survey.purged = self.purge().await?;
        self.list_expired(&mut survey, terms.batch).await?;
        Ok(survey)
    }

    async fn purge(&self) -> Result<u64, Error> {
        let mut call = scripts::call(&scripts::PURGE, &[&self.keys.processing, &self.keys.leases]);
        call.arg(PURGED_WITHIN);
        Ok(unsigned(self.number(&Ok(self.ask(call).await?))?))
    }

    async fn promote(&self, batch: usize) -> Result<u64, Error> {
        let mut call = scripts::call(&scripts::PROMOTE, &[&self.keys.delayed, &self.keys.main]);
        call.arg(batch);
        Ok(unsigned(self.number(&Ok(self.ask(call).await?))?))
    }

    /// Walks over processing and leases what has none. Returns how many got one, and whether the walk was cut short.
    async fn lease(&self, first_sight: Duration, from: i64) -> Result<(u64, bool), Error> {
        let Keys { reaper, processing, leases, .. } = &self.keys;
        let (mut leased, mut skip) = (0, usize::try_from(from).unwrap_or(0));
        for _ in 0..STRETCHES {
            let mut call = scripts::call(&scripts::LEASE, &[reaper, processing, leases]);
            call.arg(millis(first_sight)).arg(skip).arg(STRETCH);
            let answer = self.ask(call).await?;
            let Value::Array(items) = &answer else { return Err(self.link.unexpected(&answer)) };
            let [Value::Int(seen), Value::Int(given)] = items[..] else { return Err(self.link.unexpected(&answer)) };
            leased += unsigned(given);
            skip += STRETCH;
            if unsigned(seen) < STRETCH as u64 {
                return Ok((leased, false));
            }
        }
        Ok((leased, true))
    }

    async fn list_expired(&self, survey: &mut Survey, batch: usize) -> Result<(), Error> {
        let mut call = scripts::call(&scripts::EXPIRED, &[&self.keys.processing, &self.keys.leases]);
        call.arg(batch).arg(EXPIRED_BYTES);
        let answer = self.ask(call).await?;
        let Value::Array(items) = answer else { return Err(self.link.unexpected(&answer)) };
        let mut items = items.into_iter();
        let [Some(Value::Int(purged)), Some(Value::Int(orphans)), Some(Value::Int(more))] = [items.next(), items.next(), items.next()]
        else {
            return Err(self.link.unexpected(&Value::Nil));
        };
        survey.purged += unsigned(purged);
        survey.orphans = unsigned(orphans);
        survey.more |= more == 1;
        survey.expired = self.entries(Value::Array(items.collect()))?;
        Ok(())
    }
}
