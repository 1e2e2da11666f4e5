use std::{collections::VecDeque, str::FromStr};

use super::*;

fn desk(config: ConsumerConfig) -> (Desk, Instant) {
    let now = Instant::now();
    (Desk::new(config, "q", now), now)
}

fn entry(id: u32) -> Bytes {
    format!(r#"{{"message_id":"{id}"}}"#).into()
}

fn suspect(id: u32) -> Bytes {
    format!(r#"{{"message_id":"{id}","hokusai_expiries":1}}"#).into()
}

fn start_all(desk: &mut Desk, now: Instant) -> VecDeque<usize> {
    std::iter::from_fn(|| desk.next(true, now)).map(|(slot, _)| slot).collect()
}

fn released(desk: &Desk) -> Vec<Bytes> {
    desk.steps.iter().map(|step| step.change.entry().clone()).collect()
}

#[test]
fn what_is_in_hand_grows_with_the_pace() {
    let (mut desk, now) = desk(ConsumerConfig { concurrency: 2, lease: Duration::from_secs(80), ..ConsumerConfig::default() });
    assert_eq!(desk.wanted(0, now), 2, "nothing is known about the pace");
    desk.receive(vec![entry(1), entry(2)], now);
    assert_eq!(desk.wanted(0, now), 0);
    for slot in start_all(&mut desk, now) {
        desk.conclude(slot, Verdict::Done, now + Duration::from_secs(1));
    }
    assert_eq!(desk.wanted(0, now), 20, "two handlers finish twenty in an eighth of the lease");
    desk.receive((0..20).map(entry).collect(), now);
    let slots = start_all(&mut desk, now);
    desk.conclude(slots[0], Verdict::Done, now + Duration::from_secs(60));
    assert_eq!(desk.wanted(0, now), 0, "a slow one is believed at once");
}

#[test]
fn what_waits_too_long_goes_back() {
    let (mut desk, now) = desk(ConsumerConfig { concurrency: 1, ..ConsumerConfig::default() });
    desk.receive(vec![entry(1), entry(2), entry(3)], now);
    assert_eq!(start_all(&mut desk, now).len(), 1);
    let later = now + desk.config.lease / 4;
    assert_eq!(desk.look_after(later), Vec::<Bytes>::new(), "what runs is not yet due");
    assert_eq!(released(&desk), [entry(3), entry(2)], "the last first, so that they are taken in order again");
    assert_eq!(desk.look_after(now + desk.config.lease / 3), vec![entry(1)]);
    assert_eq!(desk.look_after(now + desk.config.lease / 2), Vec::<Bytes>::new(), "extended a moment ago");
}

#[test]
fn of_several_suspects_one_is_kept() {
    let (mut desk, now) = desk(ConsumerConfig::default());
    desk.receive(vec![entry(1), suspect(2), suspect(3), entry(4)], now);
    assert_eq!(released(&desk), [suspect(3)]);
    desk.steps.clear();
    let slots = start_all(&mut desk, now);
    assert_eq!((slots.len(), desk.wanted(0, now)), (2, 0), "the suspect waits until nothing else runs");
    desk.conclude(slots[0], Verdict::Done, now);
    desk.conclude(slots[1], Verdict::Done, now);
    assert!(desk.next(true, now).is_none(), "acks are sent first");
    desk.take_acks();
    assert!(desk.next(false, now).is_none(), "and have arrived");
    let (slot, delivery) = desk.next(true, now).unwrap();
    assert_eq!((delivery.entry, desk.wanted(0, now)), (suspect(2), 0));
    desk.conclude(slot, Verdict::Done, now);
    assert_eq!(desk.wanted(0, now), 1, "there may be more of its kind");
    desk.receive(vec![entry(5)], now);
    assert!(desk.wanted(0, now) > 1);
}

#[test]
fn a_pause_grows_until_a_probe_succeeds() {
    let (mut desk, mut now) = desk(ConsumerConfig { concurrency: 1, ..ConsumerConfig::default() });
    let outage = || Verdict::Outage { error: "no chain".into() };
    let mut pauses = vec![];
    for _ in 0..12 {
        assert_eq!(desk.wanted(0, now), 1);
        desk.receive(vec![entry(1)], now);
        let (slot, _) = desk.next(true, now).unwrap();
        desk.conclude(slot, outage(), now);
        assert_eq!(released(&desk), [entry(1)]);
        desk.steps.clear();
        let until = desk.pause.as_ref().unwrap().until;
        assert_eq!(desk.wanted(0, until - Duration::from_millis(1)), 0);
        pauses.push(until - now);
        now = until;
    }
    assert_eq!(pauses[..3], [FIRST_PAUSE, FIRST_PAUSE * 2, FIRST_PAUSE * 4]);
    assert_eq!(pauses[11], LONGEST_PAUSE);
    desk.receive(vec![entry(1)], now);
    let (slot, _) = desk.next(true, now).unwrap();
    desk.conclude(slot, Verdict::Retry { error: "another matter".into() }, now);
    assert_eq!(desk.status(), Status::Idle);
}

#[test]
fn verdicts_of_one_outage_pause_once() {
    let (mut desk, now) = desk(ConsumerConfig { concurrency: 8, ..ConsumerConfig::default() });
    desk.receive((0..8).map(entry).collect(), now);
    for slot in start_all(&mut desk, now) {
        desk.conclude(slot, Verdict::Outage { error: "no chain".into() }, now);
    }
    assert_eq!(desk.pause.as_ref().unwrap().delay, FIRST_PAUSE);
    assert!(matches!(desk.status(), Status::Paused { .. }));
}

#[test]
fn it_never_wakes_for_what_is_past() {
    let (mut desk, now) = desk(ConsumerConfig::default());
    desk.pause(Away::Queue, "gone".into(), now);
    let later = now + desk.config.lease;
    assert!(desk.wake_at(now) <= now + FIRST_PAUSE);
    assert!(desk.wake_at(later) > later);
}

#[test]
fn delays_double_up_to_the_cap_with_half_of_them_jitter() {
    for (retry_count, full) in [(0, 1.0), (1, 2.0), (4, 16.0), (9, 300.0), (u32::MAX, 300.0)] {
        for _ in 0..50 {
            let seconds = delay(Duration::from_secs(1), retry_count).as_secs_f64();
            assert!((full / 2.0..=full).contains(&seconds), "{retry_count}: {seconds}");
        }
    }
    assert_eq!(delay(Duration::ZERO, 3), Duration::ZERO);
}

#[test]
fn states_have_names() {
    for state in crate::State::ALL {
        assert_eq!(crate::State::from_str(state.as_str()), Ok(state));
    }
    assert!(crate::State::from_str("gone").is_err());
}

#[test]
fn a_pause_ends_when_nothing_waits() {
    let (mut desk, now) = desk(ConsumerConfig::default());
    desk.receive(vec![entry(1)], now);
    let slot = start_all(&mut desk, now)[0];
    desk.conclude(slot, Verdict::Outage { error: "no chain".into() }, now);
    let later = now + Duration::from_secs(1);
    desk.found_nothing(later);
    assert!(matches!(desk.status(), Status::Paused { .. }), "the entry is on its way back");
    desk.steps.clear();
    desk.found_nothing(now);
    assert!(matches!(desk.status(), Status::Paused { .. }), "the pause has only begun");
    desk.found_nothing(later);
    assert_eq!(desk.status(), Status::Idle);
}

#[test]
fn much_is_taken_in_two_halves() {
    let (mut desk, now) = desk(ConsumerConfig::default());
    desk.receive(vec![entry(1)], now);
    let slot = start_all(&mut desk, now)[0];
    desk.conclude(slot, Verdict::Done, now + Duration::from_micros(1));
    assert_eq!((desk.wanted(0, now), desk.wanted(128, now), desk.wanted(129, now)), (128, 128, 0));
    desk.receive((0..128).map(entry).collect(), now);
    assert_eq!((desk.wanted(0, now), desk.wanted(128, now)), (128, 0));
}
