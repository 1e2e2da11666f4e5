//! The ledger's tables.
//!
//! A slot's riders are the deployments that carry its (account, nonce); `item` is their place in the call. `alone` is set
//! on a deployment whose batch failed as a whole: it is sent by itself from then on. `tries` counts what failed without
//! saying why, and `not_before` is when it may be tried again. `permanent` is set on a refusal that the same content can only
//! meet again. `wish` is what a person asked for. `deploy_bests` is described in
//! `ledger/bests.rs`. Gas and fees are decimal text where 64 bits may not hold them.

use hokusai_db::Migration;

/// The tables of the ledger.
pub const MIGRATIONS: &[Migration] = &[
    Migration { room: "deploy", number: 1, sql: TABLES, sqlite: None },
    Migration { room: "deploy", number: 2, sql: SECOND_TRIES, sqlite: None },
    Migration { room: "deploy", number: 3, sql: WISHES, sqlite: None },
    Migration { room: "deploy", number: 4, sql: BESTS, sqlite: None },
];

const TABLES: &str = "
CREATE TABLE deploy_deployments (
    id TEXT NOT NULL PRIMARY KEY,
    chain_id BIGINT NOT NULL,
    registry TEXT NOT NULL,
    symbol_key TEXT NOT NULL,
    model_name TEXT NOT NULL,
    model_version TEXT NOT NULL,
    message_id TEXT NOT NULL,
    request TEXT NOT NULL,
    state TEXT NOT NULL,
    alone BIGINT NOT NULL DEFAULT 0,
    account TEXT,
    nonce BIGINT,
    item BIGINT,
    token_address TEXT,
    transaction_hash TEXT,
    block_number BIGINT,
    gas_used BIGINT,
    fee_wei TEXT,
    outcome TEXT,
    reason TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    settled_at BIGINT,
    UNIQUE (chain_id, registry, symbol_key, model_name, model_version)
);
CREATE INDEX deploy_deployments_by_state ON deploy_deployments (state, created_at, id);
CREATE INDEX deploy_deployments_by_slot ON deploy_deployments (chain_id, account, nonce);
CREATE INDEX deploy_deployments_by_symbol ON deploy_deployments (symbol_key, created_at, id);
CREATE TABLE deploy_messages (
    message_id TEXT NOT NULL,
    deployment_id TEXT NOT NULL REFERENCES deploy_deployments (id),
    PRIMARY KEY (message_id, deployment_id)
);
CREATE INDEX deploy_messages_by_deployment ON deploy_messages (deployment_id);
CREATE TABLE deploy_slots (
    chain_id BIGINT NOT NULL,
    account TEXT NOT NULL,
    nonce BIGINT NOT NULL,
    registry TEXT NOT NULL,
    state TEXT NOT NULL,
    included_hash TEXT,
    block_number BIGINT,
    block_hash TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (chain_id, account, nonce)
);
CREATE INDEX deploy_slots_by_state ON deploy_slots (chain_id, account, state, updated_at);
CREATE TABLE deploy_attempts (
    chain_id BIGINT NOT NULL,
    account TEXT NOT NULL,
    nonce BIGINT NOT NULL,
    number BIGINT NOT NULL,
    purpose TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    raw BYTEA NOT NULL,
    gas_limit BIGINT NOT NULL,
    max_fee_wei TEXT NOT NULL,
    tip_wei TEXT NOT NULL,
    signed_at BIGINT NOT NULL,
    sent_at BIGINT,
    PRIMARY KEY (chain_id, account, nonce, number),
    FOREIGN KEY (chain_id, account, nonce) REFERENCES deploy_slots (chain_id, account, nonce)
);
CREATE TABLE deploy_leases (
    chain_id BIGINT NOT NULL,
    account TEXT NOT NULL,
    holder TEXT NOT NULL,
    fence BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (chain_id, account)
)";

const SECOND_TRIES: &str = "
ALTER TABLE deploy_deployments ADD COLUMN tries BIGINT NOT NULL DEFAULT 0;
ALTER TABLE deploy_deployments ADD COLUMN not_before BIGINT NOT NULL DEFAULT 0;
ALTER TABLE deploy_deployments ADD COLUMN permanent BIGINT NOT NULL DEFAULT 0;
CREATE TABLE deploy_chains (
    chain_id BIGINT NOT NULL PRIMARY KEY,
    genesis TEXT NOT NULL
)";

const WISHES: &str = "
ALTER TABLE deploy_deployments ADD COLUMN wish TEXT;
CREATE INDEX deploy_deployments_by_wish ON deploy_deployments (chain_id) WHERE wish IS NOT NULL";

const BESTS: &str = "
CREATE TABLE deploy_bests (
    chain_id BIGINT NOT NULL,
    registry TEXT NOT NULL,
    symbol_key TEXT NOT NULL,
    metric_name TEXT NOT NULL,
    lower_is_better BIGINT NOT NULL,
    value DOUBLE PRECISION NOT NULL,
    deployment_id TEXT NOT NULL,
    PRIMARY KEY (chain_id, registry, symbol_key, metric_name, lower_is_better)
);
CREATE INDEX deploy_bests_by_deployment ON deploy_bests (deployment_id)";
