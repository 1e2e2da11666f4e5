//! N keep-alive connections on one thread: each has at most one request outstanding.
//!
//! `Pace::Closed`: a connection sends its next request when the answer to the last has come, so the rate is what the server gives.
//! `Pace::Open`: requests are due at fixed moments. One that finds no free connection waits for it, and its latency runs from the
//! moment it was due, not from when it was sent: a stall of the server is charged to every request that it delayed.
//!
//! The loop is bare `epoll` through mio: one write and one read a request. The generator shares the machine with the server, and what it
//! spends is missing there.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream as BlockingStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mio::{Events, Interest, Poll, Token, Waker, net::TcpStream};

use crate::{latency::Latencies, registration::Requests};

/// How requests are spaced.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    Closed,
    Open { per_second: u32 },
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub address: SocketAddr,
    pub connections: usize,
    pub pace: Pace,
    /// Requests answered (closed loop) or due (open loop) before this has passed are sent, checked and not measured.
    pub warmup: Duration,
    pub measure: Duration,
    /// The run ends early when so many were sent.
    pub max_requests: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Requests sent, the warm-up included.
    pub sent: u64,
    /// Answers of the 2xx kind, the warm-up included.
    pub accepted: u64,
    /// Other answers.
    pub refused: u64,
    /// Requests whose connection broke, or that were not answered within ten seconds of the end.
    pub unanswered: u64,
    /// The first answer that was not 2xx, for the reader.
    pub first_refusal: Option<String>,
    /// The measured time.
    pub measured: Duration,
    /// Of the measured requests with a 2xx answer.
    pub latencies: Latencies,
    /// Open loop: how long after it was due a measured request was sent.
    pub lateness: Latencies,
}

const WAKE: Token = Token(usize::MAX);
/// Answers may come for so long after the last request.
const GRACE: Duration = Duration::from_secs(10);

struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
    /// When the outstanding request was due, and whether it is measured.
    since: Option<(Instant, bool)>,
}

/// Runs the plan. `answered` sees the moment and the body of every 2xx answer.
pub fn run(plan: &Plan, requests: Requests, answered: impl FnMut(Instant, &[u8], bool)) -> Result<Outcome> {
    ensure!(plan.connections > 0, "at least one connection is needed");
    let poll = Poll::new()?;
    let connections = (0..plan.connections).map(|index| connect(plan.address, index, &poll)).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let driver = Driver {
        idle: (0..plan.connections).rev().collect(),
        plan,
        connections,
        requests,
        start,
        measured_from: start + plan.warmup,
        end: start + plan.warmup + plan.measure,
        outcome: Outcome::default(),
        answered,
    };
    driver.run(poll)
}

struct Driver<'a, F> {
    plan: &'a Plan,
    connections: Vec<Connection>,
    idle: Vec<usize>,
    requests: Requests,
    start: Instant,
    measured_from: Instant,
    end: Instant,
    outcome: Outcome,
    answered: F,
}

impl<F: FnMut(Instant, &[u8], bool)> Driver<'_, F> {
    fn run(mut self, mut poll: Poll) -> Result<Outcome> {
        let pacer = self.start_pacer(&poll)?;
        let mut events = Events::with_capacity(1024);
        loop {
            let now = Instant::now();
            self.send_due(now, &poll)?;
            let outstanding = self.connections.len() - self.idle.len();
            if (self.is_over(now) && outstanding == 0) || now >= self.end + GRACE {
                self.outcome.unanswered += outstanding as u64;
                break;
            }
            if let Err(error) = poll.poll(&mut events, Some(Duration::from_millis(100)))
                && error.kind() != ErrorKind::Interrupted
            {
                return Err(error.into());
            }
            for event in &events {
                if event.token() != WAKE {
                    self.receive(event.token().0, &poll)?;
                }
            }
        }
        // What was due and never sent, because the server fell so far behind, is unanswered too.
        self.outcome.unanswered += self.due_by(self.end).saturating_sub(self.outcome.sent);
        self.outcome.measured = self.end.min(Instant::now()).saturating_duration_since(self.measured_from);
        if let Some(pacer) = pacer {
            pacer.join().expect("the pacer does not panic");
        }
        Ok(self.outcome)
    }

    /// `epoll` waits by the millisecond, too coarse for a request a millisecond; a thread that sleeps until each is due wakes it.
    fn start_pacer(&self, poll: &Poll) -> Result<Option<thread::JoinHandle<()>>> {
        let Pace::Open { per_second } = self.plan.pace else { return Ok(None) };
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let (start, total) = (self.start, self.due_by(self.end));
        Ok(Some(thread::spawn(move || {
            for number in 0..total {
                thread::sleep(due(start, per_second, number).saturating_duration_since(Instant::now()));
                if waker.wake().is_err() {
                    return;
                }
            }
        })))
    }

    fn is_over(&self, now: Instant) -> bool {
        match self.plan.pace {
            Pace::Closed => now >= self.end || self.outcome.sent >= self.plan.max_requests,
            Pace::Open { .. } => self.outcome.sent >= self.due_by(self.end),
        }
    }

    /// How many requests an open loop owes by `moment`.
    fn due_by(&self, moment: Instant) -> u64 {
        let Pace::Open { per_second } = self.plan.pace else { return 0 };
        let elapsed = moment.saturating_duration_since(self.start).as_secs_f64();
        ((elapsed * f64::from(per_second)).floor() as u64).min(self.plan.max_requests)
    }

    fn send_due(&mut self, now: Instant, poll: &Poll) -> Result<()> {
        while !self.idle.is_empty() && !self.is_over(now) {
            let since = match self.plan.pace {
                Pace::Closed => now,
                Pace::Open { per_second } => due(self.start, per_second, self.outcome.sent),
            };
            if since > now {
                return Ok(());
            }
            let index = self.idle.pop().expect("an idle connection was seen");
            self.send(index, since, poll)?;
        }
        Ok(())
    }

    fn send(&mut self, index: usize, since: Instant, poll: &Poll) -> Result<()> {
        let measured = matches!(self.plan.pace, Pace::Open { .. }) && since >= self.measured_from;
        if measured {
            self.outcome.lateness.add(since.elapsed());
        }
        self.outcome.sent += 1;
        let connection = &mut self.connections[index];
        connection.since = Some((since, measured));
        let request = self.requests.next_request();
        // The last answer was read whole, so the socket's buffer is empty and takes a request in one piece.
        match connection.stream.write(request) {
            Ok(written) => {
                ensure!(written == request.len(), "a socket took only {written} of {} bytes", request.len());
                Ok(())
            }
            Err(_) => self.reconnect(index, poll),
        }
    }

    fn receive(&mut self, index: usize, poll: &Poll) -> Result<()> {
        let connection = &mut self.connections[index];
        let mut chunk = [0; 16 * 1024];
        loop {
            match connection.stream.read(&mut chunk) {
                Ok(0) => return self.reconnect(index, poll),
                Ok(read) => {
                    connection.answer.extend_from_slice(&chunk[..read]);
                    if let Some(answer) = Answer::parse(&connection.answer)? {
                        return self.finish(index, answer, poll);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.reconnect(index, poll),
            }
        }
    }

    fn finish(&mut self, index: usize, answer: Answer, poll: &Poll) -> Result<()> {
        let now = Instant::now();
        let connection = &mut self.connections[index];
        ensure!(connection.answer.len() == answer.end, "the server sent more than was asked for");
        let (since, due_in_time) = connection.since.take().context("the server answered before it was asked")?;
        let measured = match self.plan.pace {
            Pace::Closed => now >= self.measured_from && now < self.end,
            Pace::Open { .. } => due_in_time,
        };
        if (200..300).contains(&answer.status) {
            self.outcome.accepted += 1;
            if measured {
                self.outcome.latencies.add(now - since);
            }
            (self.answered)(now, &connection.answer[answer.body..], measured);
        } else {
            self.outcome.refused += 1;
            let text = String::from_utf8_lossy(&connection.answer).chars().take(600).collect();
            self.outcome.first_refusal.get_or_insert(text);
        }
        connection.answer.clear();
        if matches!(self.plan.pace, Pace::Closed) && !self.is_over(now) && self.idle.is_empty() {
            return self.send(index, now, poll);
        }
        self.idle.push(index);
        Ok(())
    }

    fn reconnect(&mut self, index: usize, poll: &Poll) -> Result<()> {
        if self.connections[index].since.is_some() {
            self.outcome.unanswered += 1;
            self.idle.push(index);
        }
        ensure!(self.outcome.unanswered < 1000, "a thousand requests were cut off without an answer");
        self.connections[index] = connect(self.plan.address, index, poll)?;
        Ok(())
    }
}

fn due(start: Instant, per_second: u32, number: u64) -> Instant {
    start + Duration::from_nanos(number * 1_000_000_000 / u64::from(per_second.max(1)))
}

fn connect(address: SocketAddr, index: usize, poll: &Poll) -> Result<Connection> {
    // Blocking until connected, so that no handshake is inside the measured time.
    let stream = BlockingStream::connect(address).with_context(|| format!("no server answers at {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let mut stream = TcpStream::from_std(stream);
    poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
    Ok(Connection { stream, answer: Vec::with_capacity(4096), since: None })
}

/// Where an answer's body lies in the bytes read so far.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: usize,
    end: usize,
}

impl Answer {
    /// None while it is incomplete. Only bodies with a length are understood, which is what a JSON endpoint sends.
    fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; 48];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(body) = response.parse(bytes)? else { return Ok(None) };
        let status = response.code.context("an answer without a status")?;
        let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
        let Some(length) = length else { bail!("the answer ({status}) has no Content-Length") };
        let end = body + std::str::from_utf8(length.value)?.trim().parse::<usize>()?;
        Ok((bytes.len() >= end).then_some(Self { status, body, end }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_when_its_body_is() {
        let whole = b"HTTP/1.1 201 Created\r\ncontent-length: 3\r\n\r\nabc";
        for cut in 0..whole.len() {
            assert!(Answer::parse(&whole[..cut]).unwrap().is_none());
        }
        let answer = Answer::parse(whole).unwrap().unwrap();
        assert_eq!((answer.status, &whole[answer.body..answer.end]), (201, &b"abc"[..]));
        assert!(Answer::parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
