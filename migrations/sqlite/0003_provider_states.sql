-- What providers keep for projects, by the ids that their answers gave. A call may refer to an id
-- only where its project stands beside it, and goes to the upstream that gave it.
CREATE TABLE provider_states (
    project_id BLOB NOT NULL,
    id_hash BLOB NOT NULL, -- the first 16 bytes of its SHA-256
    upstream TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (project_id, id_hash)
) STRICT, WITHOUT ROWID;

CREATE INDEX provider_states_by_age ON provider_states (project_id, created_at);
