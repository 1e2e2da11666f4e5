//! One row, and as many as are waiting, on PostgreSQL.

use anyhow::{Context, Result};
use tokio::sync::{
    Mutex,
    mpsc::{self, UnboundedReceiver, UnboundedSender},
};
use tokio_postgres::{Client, NoTls, Statement, types::ToSql};

use crate::{GROUP, Row, Waiting, push::Push};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS registration \
    (seq BIGSERIAL PRIMARY KEY, id TEXT NOT NULL, token TEXT NOT NULL, body BYTEA NOT NULL)";
const INSERT: &str = "INSERT INTO registration (id, token, body) VALUES ($1, $2, $3)";
const INSERT_MANY: &str = "INSERT INTO registration (id, token, body) SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[])";

async fn connect(url: &str, insert: &str) -> Result<(Client, Statement)> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("PostgreSQL")?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            eprintln!("a connection to PostgreSQL ended: {error}");
        }
    });
    client.batch_execute(TABLE).await?;
    let statement = client.prepare(insert).await?;
    Ok((client, statement))
}

/// A commit per request, on whichever connection of the pool is free. Requests beyond the pool wait.
pub(crate) struct Each {
    idle: Mutex<mpsc::Receiver<(Client, Statement)>>,
    returned: mpsc::Sender<(Client, Statement)>,
}

impl Each {
    pub(crate) async fn open(url: &str, connections: usize) -> Result<Self> {
        let (returned, idle) = mpsc::channel(connections);
        for _ in 0..connections {
            returned.send(connect(url, INSERT).await?).await.context("the pool is open")?;
        }
        Ok(Self { idle: Mutex::new(idle), returned })
    }

    pub(crate) async fn insert(&self, row: &Row) -> Result<()> {
        let (client, statement) = self.idle.lock().await.recv().await.context("the pool is open")?;
        let inserted = client.execute(&statement, &[&row.id, &row.token, &&row.body[..]]).await;
        self.returned.send((client, statement)).await.context("the pool is open")?;
        inserted?;
        Ok(())
    }
}

/// A task that commits whatever waits, one statement for all rows.
pub(crate) async fn group(url: &str, push: Option<Push>) -> Result<UnboundedSender<Waiting>> {
    let (client, statement) = connect(url, INSERT_MANY).await?;
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        if let Err(error) = write_groups(client, statement, receiver, push).await {
            eprintln!("the writer stops: {error:#}");
        }
    });
    Ok(sender)
}

async fn write_groups(client: Client, statement: Statement, mut receiver: UnboundedReceiver<Waiting>, push: Option<Push>) -> Result<()> {
    let mut group = Vec::with_capacity(GROUP);
    while receiver.recv_many(&mut group, GROUP).await > 0 {
        let ids: Vec<&str> = group.iter().map(|waiting| waiting.row.id.as_str()).collect();
        let tokens: Vec<&str> = group.iter().map(|waiting| waiting.row.token.as_str()).collect();
        let bodies: Vec<&[u8]> = group.iter().map(|waiting| &waiting.row.body[..]).collect();
        let parameters: [&(dyn ToSql + Sync); 3] = [&ids, &tokens, &bodies];
        client.execute(&statement, &parameters).await?;
        let rows = group.drain(..).map(Waiting::answer).collect();
        if let Some(push) = &push {
            push.push(rows)?;
        }
    }
    Ok(())
}
