//! One queue on Redis, as its commands and scripts see it; each method is one of them, under its file's name.
//!
//! Lists are bags: a take may bring any entry, which covers every order. An entry's bytes are its message and its two
//! counters; two identical entries are one message, as `LREM` sees it. A lease or a due time is running or over, and a
//! tick of the clock ends what is running.

use std::fmt;

/// `MESSAGE_RETRY_MAX`: one more delivery after a failure.
pub(crate) const MAX_RETRIES: u8 = 1;
/// `max_expiries`: the second one dead-letters.
pub(crate) const MAX_EXPIRIES: u8 = 2;
/// The most messages there can be.
pub(crate) const MESSAGES: usize = 2;
const ENTRIES: u8 = 8;

/// An entry's bytes: message, `retry_count`, `hokusai_expiries`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Entry(u8);

impl Entry {
    /// As it is published.
    pub(crate) fn new(message: usize) -> Self {
        Self::with(message, 0, 0)
    }

    fn with(message: usize, retries: u8, expiries: u8) -> Self {
        Self(u8::try_from(message).unwrap_or(0) * 4 + retries * 2 + expiries)
    }

    pub(crate) fn message(self) -> usize {
        usize::from(self.0 / 4)
    }

    fn retries(self) -> u8 {
        self.0 / 2 % 2
    }

    fn expiries(self) -> u8 {
        self.0 % 2
    }

    /// `attempts::after_failure`; none when the retries are used up.
    pub(crate) fn after_failure(self) -> Option<Self> {
        (self.retries() < MAX_RETRIES).then(|| Self::with(self.message(), self.retries() + 1, self.expiries()))
    }

    /// `attempts::after_expiry`; none at the cap (`reaper::decide`).
    pub(crate) fn after_expiry(self) -> Option<Self> {
        (self.expiries() + 1 < MAX_EXPIRIES).then(|| Self::with(self.message(), self.retries(), self.expiries() + 1))
    }

    /// A foreign client's retry, which drops the envelope key it does not know.
    pub(crate) fn after_foreign_failure(self) -> Option<Self> {
        (self.retries() < MAX_RETRIES).then(|| Self::with(self.message(), self.retries() + 1, 0))
    }

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..ENTRIES).map(Self)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{} r{} e{}", self.message(), self.retries(), self.expiries())
    }
}

/// A list: how many there are of each entry, four bits each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Bag(u32);

impl Bag {
    pub(crate) fn count(self, entry: Entry) -> u32 {
        self.0 >> (entry.0 * 4) & 15
    }

    pub(crate) fn has(self, entry: Entry) -> bool {
        self.count(entry) > 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn first(self) -> Option<Entry> {
        Entry::all().find(|entry| self.has(*entry))
    }

    pub(crate) fn has_message(self, message: usize) -> bool {
        self.0 >> (message * 16) & 0xFFFF != 0
    }

    fn push(&mut self, entry: Entry) {
        assert!(self.count(entry) < 15, "more copies than the model can count");
        self.0 += 1 << (entry.0 * 4);
    }

    fn remove(&mut self, entry: Entry) -> bool {
        let there = self.has(entry);
        if there {
            self.0 -= 1 << (entry.0 * 4);
        }
        there
    }
}

impl fmt::Debug for Bag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(Entry::all().filter(|entry| self.has(*entry)).map(|entry| (entry, self.count(entry)))).finish()
    }
}

/// A time given to an entry: a lease's end, or when a retry is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Time {
    Over,
    Running,
    /// `+inf`, an orphan's lease.
    Endless,
}

/// A sorted set: at most one time for each entry, two bits each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Times(u16);

impl Times {
    pub(crate) fn get(self, entry: Entry) -> Option<Time> {
        match self.0 >> (entry.0 * 2) & 3 {
            0 => None,
            1 => Some(Time::Over),
            2 => Some(Time::Running),
            _ => Some(Time::Endless),
        }
    }

    fn set(&mut self, entry: Entry, time: Option<Time>) {
        let bits = match time {
            None => 0,
            Some(Time::Over) => 1,
            Some(Time::Running) => 2,
            Some(Time::Endless) => 3,
        };
        self.0 = self.0 & !(3 << (entry.0 * 2)) | bits << (entry.0 * 2);
    }

    pub(crate) fn has_message(self, message: usize) -> bool {
        self.0 >> (message * 8) & 0xFF != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn any(self, time: Time) -> bool {
        Entry::all().any(|entry| self.get(entry) == Some(time))
    }

    fn turn(&mut self, from: Time, to: Time) {
        for entry in Entry::all() {
            if self.get(entry) == Some(from) {
                self.set(entry, Some(to));
            }
        }
    }
}

impl fmt::Debug for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(Entry::all().filter_map(|entry| Some((entry, self.get(entry)?)))).finish()
    }
}

/// What `Q:cursor` holds for a source. Zero is none. Where cursors are bare positions (a mutant), the message is not in Redis,
/// and only the properties know by it what is a foreign cursor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct Cursor {
    pub(crate) position: u8,
    pub(crate) message: Option<u8>,
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message {
            _ if self.position == 0 => write!(f, "none"),
            Some(message) => write!(f, "{}(m{message})", self.position),
            None => write!(f, "{}(?)", self.position),
        }
    }
}

/// The keys of one queue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Redis {
    pub(crate) main: Bag,
    pub(crate) processing: Bag,
    pub(crate) leases: Times,
    pub(crate) delayed: Times,
    /// Which messages have a dead-letter entry.
    pub(crate) dlq: [bool; MESSAGES],
    /// By source: before and after the source was renewed.
    pub(crate) cursor: [Cursor; 2],
    /// `met` in `Q:reaper`.
    pub(crate) met: bool,
}

impl Redis {
    /// Whether a message is anywhere in the queue, the dead letters included.
    pub(crate) fn holds(&self, message: usize) -> bool {
        self.main.has_message(message) || self.processing.has_message(message) || self.delayed.has_message(message) || self.dlq[message]
    }

    /// `LPUSH Q`.
    pub(crate) fn lpush(&mut self, entry: Entry) {
        self.main.push(entry);
    }

    /// `LMOVE Q Q:processing`, and `BRPOPLPUSH` as well.
    pub(crate) fn lmove(&mut self, entry: Entry) {
        self.main.remove(entry);
        self.processing.push(entry);
    }

    /// `LREM Q:processing`, the bare ack of the hot path: a lease stays behind.
    pub(crate) fn lrem(&mut self, entry: Entry) -> bool {
        self.processing.remove(entry)
    }

    /// retry.lua; the delay is never zero (`consumer::desk::retry`).
    pub(crate) fn retry(&mut self, entry: Entry, with: Entry) -> bool {
        let removed = self.take_out(entry);
        if removed {
            self.delayed.set(with, Some(Time::Running));
        }
        removed
    }

    /// The second command of a retry that is not one script (a mutant).
    pub(crate) fn zadd_delayed(&mut self, with: Entry) {
        self.delayed.set(with, Some(Time::Running));
    }

    /// release.lua.
    pub(crate) fn release(&mut self, entry: Entry) -> bool {
        let removed = self.take_out(entry);
        if removed {
            self.main.push(entry);
        }
        removed
    }

    /// `dead_letter.lua`.
    pub(crate) fn dead_letter(&mut self, entry: Entry) -> bool {
        let removed = self.take_out(entry);
        self.dlq[entry.message()] |= removed;
        removed
    }

    /// extend.lua.
    pub(crate) fn extend(&mut self, entry: Entry) -> bool {
        let there = self.processing.has(entry);
        self.leases.set(entry, there.then_some(Time::Running));
        there
    }

    /// expire.lua, with what `reaper::decide` gives it.
    pub(crate) fn expire(&mut self, entry: Entry, with: Option<Entry>) -> bool {
        if self.leases.get(entry) != Some(Time::Over) {
            return false;
        }
        let removed = self.take_out(entry);
        self.leases.set(entry, None);
        match with {
            _ if !removed => {}
            Some(with) => self.main.push(with),
            None => self.dlq[entry.message()] = true,
        }
        removed
    }

    /// meet.lua; `own` is what the caller took a moment ago.
    pub(crate) fn meet(&mut self, own: Option<Entry>) {
        if std::mem::replace(&mut self.met, true) {
            return;
        }
        for entry in Entry::all() {
            if self.processing.has(entry) && self.leases.get(entry).is_none() && own != Some(entry) {
                self.leases.set(entry, Some(Time::Endless));
            }
        }
    }

    /// `open_pass.lua` after an outage: every lease is renewed.
    pub(crate) fn renew(&mut self) {
        self.leases.turn(Time::Over, Time::Running);
    }

    /// `open_pass.lua` when told to reap orphans.
    pub(crate) fn adopt_orphans(&mut self) {
        self.leases.turn(Time::Endless, Time::Running);
    }

    /// promote.lua.
    pub(crate) fn promote(&mut self) {
        for entry in Entry::all() {
            if self.delayed.get(entry) == Some(Time::Over) {
                self.delayed.set(entry, None);
                self.main.push(entry);
            }
        }
    }

    /// lease.lua.
    pub(crate) fn lease(&mut self) {
        for entry in Entry::all() {
            if self.processing.has(entry) && self.leases.get(entry).is_none() {
                self.leases.set(entry, Some(Time::Running));
            }
        }
    }

    /// What expired.lua purges. What it lists needs no state: expire.lua looks again, and the model tries every entry.
    pub(crate) fn purge(&mut self) {
        for entry in Entry::all() {
            if matches!(self.leases.get(entry), Some(Time::Over | Time::Endless)) && !self.processing.has(entry) {
                self.leases.set(entry, None);
            }
        }
    }

    /// The server's clock.
    pub(crate) fn tick(&mut self) {
        self.leases.turn(Time::Running, Time::Over);
        self.delayed.turn(Time::Running, Time::Over);
    }

    fn take_out(&mut self, entry: Entry) -> bool {
        let removed = self.processing.remove(entry);
        if removed {
            self.leases.set(entry, None);
        }
        removed
    }
}
