CREATE TABLE queue_entries (
    queue TEXT NOT NULL,
    position BIGINT NOT NULL,
    state TEXT NOT NULL,
    digest BIGINT NOT NULL,
    entry BYTEA NOT NULL,
    at BIGINT,
    PRIMARY KEY (queue, position)
);
CREATE INDEX queue_entries_by_state ON queue_entries (queue, state, position);
CREATE INDEX queue_entries_by_time ON queue_entries (queue, state, at);
CREATE INDEX queue_entries_by_digest ON queue_entries (queue, digest);
CREATE TABLE queue_heads (
    queue TEXT NOT NULL PRIMARY KEY,
    lowest BIGINT NOT NULL,
    highest BIGINT NOT NULL,
    passed BIGINT
);
CREATE TABLE queue_cursors (
    queue TEXT NOT NULL,
    source TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (queue, source)
);
