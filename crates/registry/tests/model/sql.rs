//! The registry's database, as far as publishing goes. Zero stands for NULL: positions begin at 1.

use crate::redis::{Cursor, MESSAGES};

/// A row of `outbox`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) enum Row {
    #[default]
    Absent,
    /// In a transaction that is not committed, with the position it has already (a mutant).
    Open(u8),
    /// Committed, `position IS NULL`.
    Waiting,
    At(u8),
}

/// The tables `outbox`, `source`, `relay_progress` of the one queue, and `finished`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Sql {
    pub(crate) outbox: [Row; MESSAGES],
    /// Which id `source` holds: the first, or the renewed one.
    pub(crate) source: u8,
    /// Where the queue was noted to be.
    pub(crate) position: u8,
    pub(crate) stopped: bool,
    pub(crate) finished: [bool; MESSAGES],
}

impl Sql {
    pub(crate) fn is_committed(&self, message: usize) -> bool {
        matches!(self.outbox[message], Row::Waiting | Row::At(_))
    }

    /// `source.last_position`.
    pub(crate) fn last_position(&self) -> u8 {
        self.outbox.iter().map(|row| if let Row::At(position) = row { *position } else { 0 }).max().unwrap_or(0)
    }

    /// The next position as a sequence gives it at insert, committed or not (a mutant).
    pub(crate) fn next_in_sequence(&self) -> u8 {
        self.outbox.iter().map(|row| if let Row::At(position) | Row::Open(position) = row { *position } else { 0 }).max().unwrap_or(0) + 1
    }

    pub(crate) fn has_open(&self) -> bool {
        self.outbox.iter().any(|row| matches!(row, Row::Open(_)))
    }

    /// `outbox::assign`.
    pub(crate) fn assign(&mut self) {
        let mut last = self.last_position();
        for row in &mut self.outbox {
            if *row == Row::Waiting {
                last += 1;
                *row = Row::At(last);
            }
        }
    }

    /// The cursor that this database would leave at a position.
    pub(crate) fn cursor_at(&self, position: u8) -> Cursor {
        let message = (0..2).find(|message| position > 0 && self.outbox[usize::from(*message)] == Row::At(position));
        Cursor { position, message }
    }

    /// `Lane::entries`: whether a push over these positions carries the message.
    pub(crate) fn is_carried(&self, message: usize, after: u8, up_to: u8) -> bool {
        matches!(self.outbox[message], Row::At(position) if position > after && position <= up_to) && !self.finished[message]
    }

    /// `outbox::renew_source`.
    pub(crate) fn renew_source(&mut self) {
        self.source = 1;
        (self.position, self.stopped) = (0, false);
    }
}
