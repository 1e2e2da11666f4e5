//! What the peers of the comparison share: the message, what a handler does with it, the clock, and the command line.
//!
//! Every peer builds and serialises each message it publishes, and parses each one it handles; see [`message`] and [`tally`].

pub mod clock;
pub mod message;
pub mod options;
pub mod tally;

/// The Rust peers allocate alike, and as the `hokusai` command does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The queue's name, and the list of what is taken.
pub const QUEUE: &str = "hokusai:model_ready_queue";
pub const PROCESSING: &str = "hokusai:model_ready_queue:processing";
