-- Calls that were done under an `Idempotency-Key`, for a day: such a call is not done again.
CREATE TABLE once_keys (
    key_hash BLOB NOT NULL, -- the first 16 bytes of the SHA-256 of API key, path and header
    body_hash BLOB NOT NULL, -- the same of query and body
    request_log_id BLOB NOT NULL,
    status INTEGER NOT NULL,
    usage TEXT NOT NULL, -- JSON object: counts by unit
    cost_nano INTEGER NOT NULL,
    created_at INTEGER NOT NULL, -- when the call came
    PRIMARY KEY (key_hash)
) STRICT, WITHOUT ROWID;

CREATE INDEX once_keys_by_age ON once_keys (created_at);
