//! The registry's tables.
//!
//! - `source`: one row. The id that queues know this database by, and the last position given to an event.
//! - `models`: the last version number given to each model; used only while no MLflow numbers the versions.
//! - `intents`: one row for each (model name, run, artifact path, token), the identity of a registration. `source_key` is a
//!   digest of the first three, which may be longer than an index entry may be. It names the version the identity
//!   resolved to and the registration that holds it now; both are NULL while MLflow is still being asked.
//! - `registrations`: what was answered, and how it went on. `document` is fixed when registering; `deployment` comes later.
//! - `registration_history`: append-only, numbered for each registration.
//! - `idempotency_keys`: which registration a caller's key was spent on, and for which content.
//! - `outbox`: events with the exact bytes to publish. On PostgreSQL, where a transaction may overtake another, `position` is NULL
//!   until the relay gives one. On SQLite, whose writers take turns, an event has its position from the start, as its row's key.
//! - `subscriptions`: which event types go to which queue, from which position on.
//! - `relay_progress`: for each queue the cursor that it was last noted to have; NULL before the relay first published there, 0
//!   while the queue has none.
//! - `finished`: events that a queue's consumers are done with, never to be published there again; `swept` is 1 if nobody
//!   said so and the sweep found them gone.
//! - `mlflow_tags`: the tags that MLflow shows of a registration; `mlflow_tagged_until`: one row, how far the tagger has looked.
//! - `mlflow_deliveries`: the webhooks of MLflow that were attended to, kept longer than one of them may be repeated.

use hokusai_db::Migration;

/// The registry's migrations, for [`hokusai_db::Database::migrate`].
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        room: "registry",
        sqlite: None,
        number: 1,
        sql: "
CREATE TABLE source (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    id TEXT NOT NULL,
    last_position BIGINT NOT NULL
);
CREATE TABLE models (
    name TEXT PRIMARY KEY,
    last_version BIGINT NOT NULL
);
CREATE TABLE intents (
    source_key BYTEA NOT NULL,
    token_key TEXT NOT NULL,
    model_name TEXT NOT NULL,
    run_id TEXT NOT NULL,
    artifact_path TEXT NOT NULL,
    model_version TEXT,
    registration_id TEXT,
    digest BYTEA,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (source_key, token_key)
);
CREATE TABLE registrations (
    id TEXT PRIMARY KEY,
    model_name TEXT NOT NULL,
    model_version TEXT NOT NULL,
    token_key TEXT NOT NULL,
    status TEXT NOT NULL,
    document TEXT NOT NULL,
    deployment TEXT,
    token_address TEXT,
    transaction_hash TEXT,
    superseded_by TEXT,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL
);
CREATE INDEX registrations_token ON registrations (token_key, id);
CREATE INDEX registrations_version ON registrations (model_name, model_version);
CREATE TABLE registration_history (
    registration_id TEXT NOT NULL,
    number BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    step TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (registration_id, number)
);
CREATE INDEX registration_history_time ON registration_history (at_ms, registration_id, number);
CREATE TABLE idempotency_keys (
    key TEXT PRIMARY KEY,
    digest BYTEA NOT NULL,
    registration_id TEXT NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE TABLE outbox (
    message_id TEXT PRIMARY KEY,
    message_type TEXT NOT NULL,
    registration_id TEXT,
    envelope BYTEA NOT NULL,
    position BIGINT,
    created_ms BIGINT NOT NULL
);
CREATE UNIQUE INDEX outbox_position ON outbox (position);
CREATE INDEX outbox_waiting ON outbox (created_ms, message_id) WHERE position IS NULL;
CREATE TABLE subscriptions (
    queue TEXT NOT NULL,
    message_type TEXT NOT NULL,
    start_position BIGINT NOT NULL,
    is_default BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (queue, message_type)
);
CREATE TABLE relay_progress (
    queue TEXT PRIMARY KEY,
    position BIGINT,
    attempted BIGINT,
    stopped TEXT,
    rewinds BIGINT NOT NULL
);
CREATE TABLE finished (
    message_id TEXT NOT NULL,
    queue TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (message_id, queue)
)",
    },
    // Which events are finished because the sweep found them gone; and the registrations that the reconciler asks for.
    Migration {
        room: "registry",
        sqlite: None,
        number: 2,
        sql: "
ALTER TABLE finished ADD COLUMN swept BIGINT NOT NULL DEFAULT 0;
CREATE INDEX finished_swept ON finished (queue, at_ms) WHERE swept = 1;
",
    },
    // Cursors name their event. Those that queues hold by now are bare positions, so the database takes a new id, and
    // unfinished events are published again.
    Migration {
        room: "registry",
        sqlite: None,
        number: 3,
        sql: "
ALTER TABLE relay_progress ADD COLUMN position_event TEXT;
ALTER TABLE relay_progress ADD COLUMN attempted_event TEXT;
UPDATE relay_progress SET position = NULL, attempted = NULL, stopped = NULL;
UPDATE source SET id = id || '-named';
",
    },
    // What MLflow was told, and what it told us.
    Migration {
        room: "registry",
        number: 4,
        sqlite: None,
        sql: "
CREATE TABLE mlflow_tags (
    registration_id TEXT PRIMARY KEY,
    tags TEXT NOT NULL,
    at_ms BIGINT NOT NULL
);
CREATE TABLE mlflow_tagged_until (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    at_ms BIGINT NOT NULL
);
CREATE TABLE mlflow_deliveries (
    id TEXT PRIMARY KEY,
    at_ms BIGINT NOT NULL
);
CREATE INDEX mlflow_deliveries_time ON mlflow_deliveries (at_ms);
",
    },
    // On SQLite an event's position is given at once and is the key of its row; what has few columns lies in its own index.
    Migration { room: "registry", number: 5, sql: "", sqlite: Some(POSITIONED) },
    // A push is not recorded before it is made any more.
    Migration {
        room: "registry",
        number: 6,
        sql: "
UPDATE relay_progress SET position = 0 WHERE position IS NULL AND attempted IS NOT NULL;
ALTER TABLE relay_progress DROP COLUMN attempted;
ALTER TABLE relay_progress DROP COLUMN attempted_event;
",
        sqlite: None,
    },
];

const POSITIONED: &str = "
INSERT INTO source (one, id, last_position)
SELECT 1, lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-8' ||
    substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))), 0
WHERE NOT EXISTS (SELECT 1 FROM source);
CREATE TABLE positioned (
    position INTEGER PRIMARY KEY,
    message_id TEXT NOT NULL UNIQUE,
    message_type TEXT NOT NULL,
    registration_id TEXT,
    envelope BYTEA NOT NULL,
    created_ms BIGINT NOT NULL
);
INSERT INTO positioned SELECT position, message_id, message_type, registration_id, envelope, created_ms FROM outbox WHERE position IS NOT NULL;
INSERT INTO positioned
SELECT (SELECT last_position FROM source) + ROW_NUMBER() OVER (ORDER BY created_ms, message_id),
    message_id, message_type, registration_id, envelope, created_ms
FROM outbox WHERE position IS NULL;
UPDATE source SET last_position = MAX(last_position, (SELECT COALESCE(MAX(position), 0) FROM positioned));
DROP TABLE outbox;
ALTER TABLE positioned RENAME TO outbox;
CREATE TABLE identities (
    source_key BYTEA NOT NULL,
    token_key TEXT NOT NULL,
    model_name TEXT NOT NULL,
    run_id TEXT NOT NULL,
    artifact_path TEXT NOT NULL,
    model_version TEXT,
    registration_id TEXT,
    digest BYTEA,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (source_key, token_key)
) WITHOUT ROWID;
INSERT INTO identities SELECT source_key, token_key, model_name, run_id, artifact_path, model_version, registration_id, digest, created_ms FROM intents;
DROP TABLE intents;
ALTER TABLE identities RENAME TO intents;
";
