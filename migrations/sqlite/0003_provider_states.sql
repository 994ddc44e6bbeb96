-- Objects that providers store for projects, by the ids in their responses. A call may refer to an id
-- only if the row of its project exists, and is routed to the upstream that created the object.
CREATE TABLE provider_states (
    project_id BLOB NOT NULL,
    id_hash BLOB NOT NULL, -- the first 16 bytes of its SHA-256
    upstream TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (project_id, id_hash)
) STRICT, WITHOUT ROWID;

CREATE INDEX provider_states_by_age ON provider_states (project_id, created_at);
