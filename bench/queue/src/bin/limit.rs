//! The limit: a hand-written RESP loop on one blocking socket, which serialises every message it publishes and parses every
//! one it handles, and keeps no promise. What is faster would have to skip that work.

use std::{
    collections::VecDeque,
    io::{Read as _, Write as _},
    net::TcpStream,
    ops::Range,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser as _;
use queue_bench::{
    PROCESSING, QUEUE, clock,
    message::{self, Stamp},
    options::{Options, Verb},
    tally::{Report, Stretch, Tally},
};

/// Batches under way at once: the next one is moved while this one is handled.
const FLIGHTS: usize = 2;
/// No reply in that time ends the run.
const PATIENCE: Duration = Duration::from_secs(20);
/// Waits of a second without a message, one after the other, that end the run.
const EMPTY_WAITS: usize = 20;
/// Entries read at once by `check`, and written at once by `strand`.
const CHUNK: u64 = 500;

fn main() -> Result<()> {
    let options = Options::parse();
    let mut socket = Socket::connect(options.port)?;
    let report = match options.verb {
        Verb::Publish { count, callers, batch: 1 } => publish_singly(&mut socket, count, callers)?,
        Verb::Publish { count, batch, .. } => publish(&mut socket, count, batch)?,
        Verb::Consume { count } => consume(&mut socket, count, options.batch, options.kind == "newest-first")?,
        Verb::Send { rate, seconds } => send(&mut socket, rate, seconds)?,
        Verb::Receive { count } => receive(&mut socket, count)?,
        Verb::Check { count } => check(&mut socket, count)?,
        Verb::Strand { count } => strand(&mut socket, count)?,
    };
    report.print()
}

struct Socket {
    stream: TcpStream,
    buffer: Vec<u8>,
    read: usize,
    filled: usize,
    out: Vec<u8>,
}

enum Reply {
    Number(i64),
    /// Where in the buffer, until the next reply is read.
    Bulk(Range<usize>),
    Nil,
    /// So many replies follow.
    Array(usize),
}

impl Socket {
    fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, buffer: vec![0; 1 << 20], read: 0, filled: 0, out: Vec::with_capacity(1 << 20) })
    }

    /// Adds a command to what is sent next.
    fn command(&mut self, words: &[&[u8]]) {
        head(&mut self.out, words.len());
        for word in words {
            bulk(&mut self.out, word);
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        if self.read > 0 {
            self.buffer.copy_within(self.read..self.filled, 0);
            self.filled -= self.read;
            self.read = 0;
        }
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let came = self.stream.read(&mut self.buffer[self.filled..]).context("no reply from Redis")?;
        ensure!(came > 0, "Redis closed the connection");
        self.filled += came;
        Ok(())
    }

    fn line(&mut self) -> Result<Range<usize>> {
        let mut looked = 0;
        loop {
            if let Some(at) = self.buffer[self.read + looked..self.filled].iter().position(|byte| *byte == b'\n') {
                let line = self.read..self.read + looked + at - 1;
                self.read = line.end + 2;
                return Ok(line);
            }
            looked = self.filled - self.read;
            self.fill()?;
        }
    }

    fn reply(&mut self) -> Result<Reply> {
        let line = self.line()?;
        let (kind, rest) = (self.buffer[line.start], &self.buffer[line.start + 1..line.end]);
        if kind == b'-' {
            bail!("{}", String::from_utf8_lossy(rest));
        }
        let number: i64 = std::str::from_utf8(rest)?.parse().context("a reply that is no number")?;
        match (kind, usize::try_from(number)) {
            (b':', _) => Ok(Reply::Number(number)),
            (b'*', Ok(length)) => Ok(Reply::Array(length)),
            (b'$' | b'*', Err(_)) => Ok(Reply::Nil),
            (b'$', Ok(length)) => {
                while self.filled - self.read < length + 2 {
                    self.fill()?;
                }
                let bulk = self.read..self.read + length;
                self.read = bulk.end + 2;
                Ok(Reply::Bulk(bulk))
            }
            _ => bail!("a reply that starts with {:?}", char::from(kind)),
        }
    }

    fn number(&mut self) -> Result<i64> {
        match self.reply()? {
            Reply::Number(number) => Ok(number),
            _ => bail!("a number was expected"),
        }
    }

    fn acknowledged(&mut self) -> Result<()> {
        ensure!(self.number()? == 1, "an entry was not in processing when it was acknowledged");
        Ok(())
    }
}

fn head(out: &mut Vec<u8>, words: usize) {
    // Writing into memory cannot fail; the same below.
    let _ = write!(out, "*{words}\r\n");
}

fn bulk(out: &mut Vec<u8>, word: &[u8]) {
    let _ = write!(out, "${}\r\n", word.len());
    out.extend_from_slice(word);
    out.extend_from_slice(b"\r\n");
}

fn unstamped(number: u64) -> Stamp {
    Stamp { number, published_ns: 0 }
}

/// One LPUSH of a whole batch, two under way.
fn publish(socket: &mut Socket, count: u64, batch: usize) -> Result<Report> {
    let (mut next, mut flights, mut message) = (0, 0, Vec::with_capacity(640));
    let stretch = Stretch::new();
    while next < count || flights > 0 {
        if next < count {
            let end = (next + batch as u64).min(count);
            head(&mut socket.out, usize::try_from(end - next)? + 2);
            bulk(&mut socket.out, b"LPUSH");
            bulk(&mut socket.out, QUEUE.as_bytes());
            for number in next..end {
                message.clear();
                message::write(unstamped(number), &mut message);
                bulk(&mut socket.out, &message);
            }
            socket.flush()?;
            next = end;
            flights += 1;
        }
        if flights == FLIGHTS || next >= count {
            socket.number()?;
            flights -= 1;
        }
    }
    Ok(stretch.report(count, vec![]))
}

/// An LPUSH for each message, as `callers` would that each wait for their answer: half of them in each write.
fn publish_singly(socket: &mut Socket, count: u64, callers: usize) -> Result<Report> {
    let (mut next, mut answered, mut message) = (0, 0, Vec::with_capacity(640));
    let outstanding = callers.max(1) as u64;
    let stretch = Stretch::new();
    while answered < count {
        let end = (next + outstanding.div_ceil(2)).min(count).min(answered + outstanding);
        for number in next..end {
            message.clear();
            message::write(unstamped(number), &mut message);
            socket.command(&[b"LPUSH", QUEUE.as_bytes(), &message]);
        }
        socket.flush()?;
        next = end;
        let due = if next < count { next.saturating_sub(outstanding / 2) } else { count };
        while answered < due {
            socket.number()?;
            answered += 1;
        }
    }
    Ok(stretch.report(count, vec![]))
}

/// The replies that are due: of the acknowledgements of a batch, and of the moves that ride with them.
struct Flight {
    acks: usize,
    moves: usize,
}

/// `newest_first`: acknowledges from the end of processing that entries are pushed at, for when others' lie at the other.
fn consume(socket: &mut Socket, count: u64, batch: usize, newest_first: bool) -> Result<Report> {
    let mut tally = Tally::new(count)?;
    let mut flights = VecDeque::from([Flight { acks: 0, moves: 0 }, Flight { acks: 0, moves: 0 }]);
    let (mut arena, mut entries, mut asked, mut empty) = (Vec::new(), Vec::<Range<usize>>::new(), 0, 0);
    while let Some(flight) = flights.pop_front() {
        for _ in 0..flight.acks {
            socket.acknowledged()?;
        }
        arena.clear();
        entries.clear();
        for _ in 0..flight.moves {
            if let Reply::Bulk(bulk) = socket.reply()? {
                let start = arena.len();
                arena.extend_from_slice(&socket.buffer[bulk]);
                entries.push(start..arena.len());
            }
        }
        asked -= flight.moves as u64;
        for entry in &entries {
            tally.note(&arena[entry.clone()])?;
        }
        if newest_first {
            entries.reverse();
        }
        let from: &[u8] = if newest_first { b"1" } else { b"-1" };
        for entry in &entries {
            socket.command(&[b"LREM", PROCESSING.as_bytes(), from, &arena[entry.clone()]]);
        }
        let moves = batch.min(usize::try_from(count.saturating_sub(tally.handled() + asked))?);
        let waits = flight.moves > 0 && entries.is_empty();
        empty = if waits { empty + 1 } else { 0 };
        ensure!(empty < EMPTY_WAITS, "{} of {count} messages came", tally.handled());
        let moves = ask(socket, moves, waits);
        asked += moves as u64;
        if !entries.is_empty() || moves > 0 {
            socket.flush()?;
            flights.push_back(Flight { acks: entries.len(), moves });
        }
    }
    Ok(tally.report())
}

/// Adds the moves to what is sent next; one that waits, if there was nothing a moment ago.
fn ask(socket: &mut Socket, moves: usize, waits: bool) -> usize {
    if waits && moves > 0 {
        socket.command(&[b"BLMOVE", QUEUE.as_bytes(), PROCESSING.as_bytes(), b"RIGHT", b"LEFT", b"1"]);
        return 1;
    }
    for _ in 0..moves {
        socket.command(&[b"LMOVE", QUEUE.as_bytes(), PROCESSING.as_bytes(), b"RIGHT", b"LEFT"]);
    }
    moves
}

fn send(socket: &mut Socket, rate: u64, seconds: u64) -> Result<Report> {
    let count = rate * seconds;
    let mut latencies = Vec::with_capacity(usize::try_from(count)?);
    let (stretch, began) = (Stretch::new(), clock::now_ns());
    for number in 0..count {
        clock::sleep_until(began + number * 1_000_000_000 / rate);
        let published_ns = clock::now_ns();
        let message = message::bytes(Stamp { number, published_ns });
        socket.command(&[b"LPUSH", QUEUE.as_bytes(), &message]);
        socket.flush()?;
        socket.number()?;
        latencies.push(clock::now_ns() - published_ns);
    }
    Ok(stretch.report(count, latencies))
}

/// One message after the other: the acknowledgement of the last and the wait for the next in one write.
fn receive(socket: &mut Socket, count: u64) -> Result<Report> {
    let mut tally = Tally::new(count)?;
    let (mut entry, mut empty) = (Vec::new(), 0);
    while tally.handled() < count || !entry.is_empty() {
        let waits = tally.handled() < count;
        if !entry.is_empty() {
            socket.command(&[b"LREM", PROCESSING.as_bytes(), b"-1", &entry]);
        }
        if waits {
            socket.command(&[b"BLMOVE", QUEUE.as_bytes(), PROCESSING.as_bytes(), b"RIGHT", b"LEFT", b"1"]);
        }
        socket.flush()?;
        if !entry.is_empty() {
            socket.acknowledged()?;
        }
        entry.clear();
        let came = if waits { socket.reply()? } else { Reply::Nil };
        if let Reply::Bulk(bulk) = came {
            tally.note(&socket.buffer[bulk.clone()])?;
            entry.extend_from_slice(&socket.buffer[bulk]);
            empty = 0;
        } else {
            empty += 1;
            ensure!(empty < EMPTY_WAITS, "{} of {count} messages came", tally.handled());
        }
    }
    Ok(tally.report())
}

fn check(socket: &mut Socket, count: u64) -> Result<Report> {
    let mut tally = Tally::new(count)?;
    let mut start = 0;
    loop {
        let (from, to) = (start.to_string(), (start + CHUNK - 1).to_string());
        socket.command(&[b"LRANGE", QUEUE.as_bytes(), from.as_bytes(), to.as_bytes()]);
        socket.flush()?;
        let Reply::Array(length) = socket.reply()? else { bail!("an array was expected") };
        if length == 0 {
            return Ok(tally.report());
        }
        for _ in 0..length {
            let Reply::Bulk(bulk) = socket.reply()? else { bail!("an entry was expected") };
            tally.note(&socket.buffer[bulk])?;
        }
        start += length as u64;
    }
}

/// Numbers that no run uses.
const STRANDED: u64 = 1 << 40;

fn strand(socket: &mut Socket, count: u64) -> Result<Report> {
    let stretch = Stretch::new();
    let mut next = 0;
    while next < count {
        let end = (next + CHUNK).min(count);
        for number in next..end {
            socket.command(&[b"LPUSH", PROCESSING.as_bytes(), &message::bytes(unstamped(STRANDED + number))]);
        }
        socket.flush()?;
        for _ in next..end {
            socket.number()?;
        }
        next = end;
    }
    Ok(stretch.report(count, vec![]))
}
