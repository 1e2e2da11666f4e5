//! One blocking connection to Redis, speaking as much RESP2 as a benchmark needs. No client library: its parsing and its tasks
//! would be part of what is measured.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
};

use anyhow::{Context, Result, bail};

/// A reply.
#[derive(Debug)]
pub enum Reply {
    Nil,
    Number(i64),
    Bytes(Vec<u8>),
    Many(Vec<Reply>),
}

/// A connection.
#[derive(Debug)]
pub struct Redis {
    reader: BufReader<TcpStream>,
}

impl Redis {
    /// Connects to `address`, as `host:port`, with or without `redis://` before it.
    pub fn connect(address: &str) -> Result<Self> {
        let address = address.trim_start_matches("redis://").trim_end_matches('/');
        let stream = TcpStream::connect(address).with_context(|| format!("Redis at {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::with_capacity(1 << 18, stream) })
    }

    /// Sends one command and waits for its reply.
    pub fn call(&mut self, command: &[&[u8]]) -> Result<Reply> {
        let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
        for word in command {
            write!(bytes, "${}\r\n", word.len())?;
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        self.reader.get_mut().write_all(&bytes)?;
        self.reply()
    }

    fn reply(&mut self) -> Result<Reply> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("Redis closed the connection");
        }
        let (kind, rest) = line.trim_end().split_at(1);
        Ok(match kind {
            "+" => Reply::Bytes(rest.into()),
            "-" => bail!("Redis refused: {rest}"),
            ":" => Reply::Number(rest.parse()?),
            "$" if rest == "-1" => Reply::Nil,
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>()? + 2];
                self.reader.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Reply::Bytes(bytes)
            }
            "*" if rest == "-1" => Reply::Nil,
            "*" => Reply::Many((0..rest.parse::<usize>()?).map(|_| self.reply()).collect::<Result<_>>()?),
            _ => bail!("Redis answered {line:?}, which is not RESP2"),
        })
    }
}
