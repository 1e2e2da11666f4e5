//! A network between a client and a server that can fail as networks do.
//!
//! Connections made before a fault suffer it; those made later do not, unless the fault says otherwise. So a test can tell
//! a client that notices from one that waits.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What existing connections are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Forward,
    /// Nothing is carried any more, and nobody is told.
    Strand,
    Close,
}

/// A TCP proxy on a loopback port.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    target: AtomicU16,
    refusing: AtomicBool,
    cut_next_reply: AtomicBool,
    /// Told to the connections that exist; each later one begins with `Forward`.
    orders: watch::Sender<(u64, Order)>,
}

impl Proxy {
    /// Forwards to `port` of 127.0.0.1.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port can be bound");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            target: AtomicU16::new(port),
            refusing: AtomicBool::new(false),
            cut_next_reply: AtomicBool::new(false),
            orders: watch::Sender::new((0, Order::Forward)),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, accepting }
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `redis://127.0.0.1:PORT/0`.
    pub fn redis_url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port())
    }

    /// Later connections go to another port, as after a failover; those that exist stay where they are.
    pub fn point_at(&self, port: u16) {
        self.shared.target.store(port, Ordering::SeqCst);
    }

    /// Existing connections fall silent: open, and dead.
    pub fn strand(&self) {
        self.order(Order::Strand);
    }

    /// Existing connections are closed.
    pub fn cut(&self) {
        self.order(Order::Close);
    }

    /// The next reply that comes from the server is withheld and its connection closed: the command was carried out, and
    /// its client cannot know.
    pub fn cut_next_reply(&self) {
        self.shared.cut_next_reply.store(true, Ordering::SeqCst);
    }

    /// Whether [`Self::cut_next_reply`] still waits for its reply.
    pub fn is_cut_pending(&self) -> bool {
        self.shared.cut_next_reply.load(Ordering::SeqCst)
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, refusing: bool) {
        self.shared.refusing.store(refusing, Ordering::SeqCst);
    }

    fn order(&self, order: Order) {
        self.shared.orders.send_modify(|(number, current)| {
            *number += 1;
            *current = order;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.order(Order::Close);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        if !shared.refusing.load(Ordering::SeqCst) {
            tokio::spawn(carry(client, Arc::clone(&shared)));
        }
    }
}

async fn carry(client: TcpStream, shared: Arc<Shared>) {
    let mut orders = shared.orders.subscribe();
    orders.mark_unchanged();
    let Ok(server) = TcpStream::connect(("127.0.0.1", shared.target.load(Ordering::SeqCst))).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let traffic = async {
        tokio::select! {
            () = pump(client_in, server_out, None) => {}
            () = pump(server_in, client_out, Some(&shared.cut_next_reply)) => {}
        }
    };
    let told = async {
        match orders.changed().await {
            Ok(()) => orders.borrow().1,
            Err(_) => Order::Close,
        }
    };
    tokio::pin!(traffic);
    tokio::select! {
        () = &mut traffic => {}
        order = told => if order == Order::Strand {
            // The sockets stay open, unread, until the proxy closes them.
            while orders.changed().await.is_ok() && orders.borrow().1 != Order::Close {}
        },
    }
}

/// Carries bytes one way until either side ends, or until they are to be withheld.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, cut: Option<&AtomicBool>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if cut.is_some_and(|cut| cut.swap(false, Ordering::SeqCst)) {
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
