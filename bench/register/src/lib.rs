//! Parts that the bare endpoints and the load generators share.
//!
//! - `registration`: the JSON that hokusai's register endpoint takes, made cheaply, every one with an identity of its own.
//! - `drive`: a client of N keep-alive connections on one thread, closed loop or at a fixed rate.
//! - `latency`: exact percentiles.
//! - `redis`: the few bytes of RESP that a benchmark needs.

pub mod drive;
pub mod latency;
pub mod redis;
pub mod registration;
