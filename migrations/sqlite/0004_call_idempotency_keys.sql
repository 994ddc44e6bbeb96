-- Completed calls by Idempotency-Key. For one day, a call with the same key is not repeated.
CREATE TABLE call_idempotency_keys (
    key_hash BLOB NOT NULL, -- the first 16 bytes of the SHA-256 of API key, path and header
    body_hash BLOB NOT NULL, -- the first 16 bytes of the SHA-256 of query and body
    request_log_id BLOB NOT NULL,
    status INTEGER NOT NULL,
    usage TEXT NOT NULL, -- JSON object: counts by unit
    cost_nano INTEGER NOT NULL,
    created_at INTEGER NOT NULL, -- arrival of the call
    PRIMARY KEY (key_hash)
) STRICT, WITHOUT ROWID;

CREATE INDEX call_idempotency_keys_by_age ON call_idempotency_keys (created_at);
