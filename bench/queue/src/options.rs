//! The command line that all peers understand, so that one script drives them all.

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
pub struct Options {
    /// Redis, on 127.0.0.1.
    #[arg(long)]
    pub port: u16,
    /// Handlers running at once, or parallel callers: what it means is up to the peer.
    #[arg(long, default_value_t = 16)]
    pub concurrency: usize,
    /// Messages taken at once, where the peer lets one choose.
    #[arg(long, default_value_t = 64)]
    pub batch: usize,
    /// A kind of the peer, where it has several.
    #[arg(long, default_value = "")]
    pub kind: String,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Verb {
    /// Publishes messages number 0 to COUNT-1: CALLERS at once, each waiting for its answer before its next BATCH.
    Publish {
        count: u64,
        #[arg(default_value_t = 1)]
        callers: usize,
        #[arg(default_value_t = 1)]
        batch: usize,
    },
    /// Takes, handles and acknowledges COUNT messages.
    Consume { count: u64 },
    /// Publishes one message at each of RATE moments a second, stamped, and times each.
    Send { rate: u64, seconds: u64 },
    /// As consume, one message at a time as they come.
    Receive { count: u64 },
    /// Counts what is in main: every number once.
    Check { count: u64 },
    /// Leaves COUNT entries in processing, as a consumer would that died long ago.
    Strand { count: u64 },
}
