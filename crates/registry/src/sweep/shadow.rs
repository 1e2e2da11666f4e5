//! What is known of a main list without reading it again: the entries that were seen to enter it and not to leave it.
//!
//! Entries enter main at one end and leave at the other, so that the shadow is a queue too: what enters is appended, and
//! what lies before the first entry still seen at the front has left. What a consumer releases comes back to the front,
//! where it is read.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{BuildHasher as _, RandomState},
};

use bytes::Bytes;
use hokusai_queue::{Look, Mark, dead_letter};
use serde::Deserialize;

/// A shadow longer than this is given up: main is then only known once all that is in it now has left.
const LONGEST: usize = 5_000_000;

#[derive(Default)]
pub(super) struct Shadow {
    hasher: RandomState,
    /// For each entry a digest of its bytes and one of its message id, in the order they entered.
    entries: VecDeque<(u64, Option<u64>)>,
    ids: HashMap<u64, u32>,
    mark: Option<Mark>,
    /// Whether main holds nothing that is not in here or at its front.
    complete: bool,
}

impl Shadow {
    /// Where the next look begins.
    pub(super) fn mark(&self) -> Option<&Mark> {
        self.mark.as_ref()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether a message with this id may be in main, as far as it was seen to enter.
    pub(super) fn may_hold(&self, message_id: &str) -> bool {
        self.ids.contains_key(&self.hasher.hash_one(message_id))
    }

    /// Takes in what a look saw.
    pub(super) fn follow(&mut self, look: &Look) {
        self.mark = Some(look.mark.clone());
        let entered = look.entered.as_deref();
        if look.whole {
            let all = entered.filter(|entered| entered.len() > look.front.len()).unwrap_or(&look.front);
            self.clear();
            self.append(all);
            self.complete = true;
            return;
        }
        let Some(entered) = entered.filter(|_| self.entries.len() < LONGEST) else { return self.clear() };
        self.append(entered);
        let front: HashSet<u64> = look.front.iter().map(|entry| self.hasher.hash_one(entry)).collect();
        match self.entries.iter().position(|(digest, _)| front.contains(digest)) {
            Some(left) => self.drop_first(left),
            // The front is none of what entered: somebody else's doing, or more was released than a look reads.
            None if self.complete => return self.clear(),
            None => return,
        }
        if !self.complete {
            let known: HashSet<u64> = self.entries.iter().map(|(digest, _)| *digest).collect();
            self.complete = front.is_subset(&known);
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.ids.clear();
        self.complete = false;
    }

    fn append(&mut self, entries: &[Bytes]) {
        for entry in entries {
            let id = message_id(entry).map(|id| self.hasher.hash_one(id));
            self.entries.push_back((self.hasher.hash_one(entry), id));
            if let Some(id) = id {
                *self.ids.entry(id).or_default() += 1;
            }
        }
    }

    fn drop_first(&mut self, count: usize) {
        for (_, id) in self.entries.drain(..count) {
            let Some(id) = id else { continue };
            if let Some(times) = self.ids.get_mut(&id) {
                *times -= 1;
                if *times == 0 {
                    self.ids.remove(&id);
                }
            }
        }
    }
}

/// The id of a message, or of the message inside a dead-letter entry.
pub(crate) fn message_id(entry: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Id {
        message_id: String,
    }
    let read = |bytes: &[u8]| serde_json::from_slice::<Id>(bytes).ok().map(|id| id.message_id);
    read(entry).or_else(|| read(&dead_letter::parse(entry).ok()?.original))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: usize) -> Bytes {
        format!(r#"{{"message_id":"{id}"}}"#).into()
    }

    fn look(front: std::ops::Range<usize>, entered: Option<std::ops::Range<usize>>, whole: bool) -> Look {
        let entries = |range: std::ops::Range<usize>| range.map(entry).collect::<Vec<_>>();
        Look { cursor: None, elsewhere: Some(vec![]), front: entries(front), entered: entered.map(entries), whole, mark: Mark::Empty }
    }

    #[track_caller]
    fn check(shadow: &Shadow, complete: bool, held: std::ops::Range<usize>) {
        let holds: Vec<usize> = (0..40).filter(|id| shadow.may_hold(&id.to_string())).collect();
        assert_eq!((shadow.is_complete(), holds), (complete, held.collect::<Vec<_>>()));
    }

    #[test]
    fn what_is_seen_whole_is_known() {
        let mut shadow = Shadow::default();
        shadow.follow(&look(0..3, None, true));
        check(&shadow, true, 0..3);
        // It has grown longer than a look reads, and one was taken.
        shadow.follow(&look(1..5, Some(3..20), false));
        check(&shadow, true, 1..20);
        shadow.follow(&look(7..12, Some(20..25), false));
        check(&shadow, true, 7..25);
        // One was released: it is at the front, and after it comes what is known.
        shadow.follow(&look(6..11, Some(25..25), false));
        check(&shadow, true, 7..25);
    }

    #[test]
    fn what_was_there_before_has_to_leave_first() {
        let mut shadow = Shadow::default();
        shadow.follow(&look(0..5, None, false));
        check(&shadow, false, 0..0);
        shadow.follow(&look(3..8, Some(10..20), false));
        check(&shadow, false, 10..20);
        shadow.follow(&look(8..13, Some(20..22), false));
        check(&shadow, false, 10..22);
        shadow.follow(&look(10..15, Some(22..22), false));
        check(&shadow, true, 10..22);
    }

    #[test]
    fn when_nothing_fits_it_starts_anew() {
        let mut shadow = Shadow::default();
        shadow.follow(&look(0..3, None, true));
        shadow.follow(&look(30..35, Some(3..6), false));
        check(&shadow, false, 0..0);
        shadow.follow(&look(31..36, None, false));
        check(&shadow, false, 0..0);
    }

    #[test]
    fn ids_are_read_from_messages_and_letters() {
        let letter = dead_letter::build(&entry(7), "q", "kind", "error", jiff::Timestamp::UNIX_EPOCH);
        assert_eq!((message_id(&entry(7)).as_deref(), message_id(&letter).as_deref()), (Some("7"), Some("7")));
        assert_eq!((message_id(b"junk"), message_id(b"{\"message_id\":7}")), (None, None));
    }
}
