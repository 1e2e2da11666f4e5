//! PostgreSQL's protocol between a worker and its database, read far enough to know when a transaction that wrote to the ledger
//! commits: <https://www.postgresql.org/docs/current/protocol-message-formats.html>.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

use crate::trap::Trap;

/// A server's address with a [`Trap`] behind it.
#[derive(Debug)]
pub(crate) struct PostgresProxy {
    port: u16,
    accepting: JoinHandle<()>,
}

impl PostgresProxy {
    pub(crate) async fn new(target: u16, trap: Arc<Trap>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target, Arc::clone(&trap)));
            }
        });
        Self { port, accepting }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PostgresProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What both directions of a connection know.
struct Connection {
    trap: Arc<Trap>,
    /// A commit was handed on, and its answer has not come back.
    commits: AtomicBool,
    /// What that commit is called.
    name: parking_lot::Mutex<String>,
}

async fn carry(client: TcpStream, target: u16, trap: Arc<Trap>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let connection = Connection { trap, commits: AtomicBool::new(false), name: parking_lot::Mutex::default() };
    // Either end of it ends both.
    tokio::select! {
        _ = requests(client_in, server_out, &connection) => {}
        _ = answers(server_in, client_out, &connection) => {}
    }
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, connection: &Connection) -> std::io::Result<()> {
    let mut session = Session::default();
    // The first message has no type.
    let length = from.read_u32().await?;
    to.write_u32(length).await?;
    copy(&mut from, &mut to, length - 4).await?;
    loop {
        let kind = from.read_u8().await?;
        let length = from.read_u32().await?;
        let mut body = vec![0; length as usize - 4];
        from.read_exact(&mut body).await?;
        if let Some(tables) = session.hear(kind, &body) {
            let name = format!("commit of {tables}");
            if !connection.trap.pass(&format!("{name} asked")).await {
                return Ok(());
            }
            *connection.name.lock() = name;
            connection.commits.store(true, Ordering::SeqCst);
        }
        let head = [&[kind][..], &length.to_be_bytes()].concat();
        to.write_all(&[head, body].concat()).await?;
    }
}

async fn copy(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, length: u32) -> std::io::Result<()> {
    let mut body = vec![0; length as usize];
    from.read_exact(&mut body).await?;
    to.write_all(&body).await
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, connection: &Connection) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        if connection.commits.swap(false, Ordering::SeqCst) {
            let name = format!("{} answered", connection.name.lock());
            if !connection.trap.pass(&name).await {
                return Ok(());
            }
        }
        to.write_all(&buffer[..length]).await?;
    }
}

/// The ledger's tables that the open transaction of one connection has written to.
#[derive(Default)]
struct Session {
    /// The table that each prepared statement writes to.
    statements: BTreeMap<Vec<u8>, Option<String>>,
    written: BTreeSet<String>,
}

impl Session {
    /// The tables, if this message commits a transaction that wrote to any.
    fn hear(&mut self, kind: u8, body: &[u8]) -> Option<String> {
        let mut texts = body.split(|byte| *byte == 0);
        let (first, second) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
        match kind {
            b'P' => drop(self.statements.insert(first.to_vec(), ledger_table(second))),
            // The portal's name comes before the statement's.
            b'B' => self.written.extend(self.statements.get(second).cloned().flatten()),
            b'Q' => return self.hear_plain(first),
            _ => {}
        }
        None
    }

    fn hear_plain(&mut self, sql: &[u8]) -> Option<String> {
        let sql = String::from_utf8_lossy(sql);
        if sql.starts_with("BEGIN") || sql.starts_with("ROLLBACK") {
            self.written.clear();
        }
        if !sql.starts_with("COMMIT") || self.written.is_empty() {
            return None;
        }
        let names = std::mem::take(&mut self.written);
        Some(names.iter().map(|name| name.trim_start_matches("deploy_")).collect::<Vec<_>>().join("+"))
    }
}

fn ledger_table(sql: &[u8]) -> Option<String> {
    let sql = String::from_utf8_lossy(sql);
    let rest = ["INSERT INTO ", "UPDATE ", "DELETE FROM "].iter().find_map(|verb| sql.trim_start().strip_prefix(verb))?;
    let table = rest.split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_').next()?;
    table.starts_with("deploy_").then(|| table.to_owned())
}
