-- Ids are 16-byte UUIDs, instants are milliseconds since 1970, money is nano-units, days are
-- counted from 1970-01-01. Every table is STRICT.

-- Users, organizations and their members.

CREATE TABLE users (
    id BLOB PRIMARY KEY,
    email TEXT NOT NULL UNIQUE, -- trimmed and case-folded
    name TEXT NOT NULL,
    password_hash TEXT,
    is_operator INTEGER NOT NULL CHECK (is_operator IN (0, 1)),
    email_verified INTEGER NOT NULL CHECK (email_verified IN (0, 1)),
    created_at INTEGER NOT NULL,
    last_login_at INTEGER
) STRICT;

CREATE TABLE sessions (
    secret_hash BLOB PRIMARY KEY, -- SHA-256
    user_id BLOB NOT NULL REFERENCES users (id),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL
) STRICT;

CREATE TABLE setup_links (
    secret_hash BLOB PRIMARY KEY,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE TABLE organizations (
    id BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    description TEXT,
    status TEXT NOT NULL CHECK (status IN ('Active', 'Inactive', 'Closed')),
    self_funding INTEGER NOT NULL CHECK (self_funding IN (0, 1)),
    on_disconnect TEXT NOT NULL CHECK (on_disconnect IN ('cancel', 'drain')),
    allowed_models TEXT, -- JSON array of globs
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    version INTEGER NOT NULL
) STRICT;

CREATE TABLE organization_members (
    organization_id BLOB NOT NULL REFERENCES organizations (id),
    user_id BLOB NOT NULL REFERENCES users (id),
    role TEXT NOT NULL CHECK (role IN ('Admin', 'Member', 'None')),
    permissions TEXT NOT NULL, -- JSON array
    status TEXT NOT NULL CHECK (status IN ('Active', 'Disabled', 'Removed')),
    joined_at INTEGER NOT NULL,
    removed_at INTEGER,
    PRIMARY KEY (organization_id, user_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE admin_tokens (
    id BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('Personal', 'Organization', 'Platform')),
    organization_id BLOB REFERENCES organizations (id),
    scopes TEXT NOT NULL, -- JSON array
    secret_hash BLOB NOT NULL UNIQUE,
    last4 TEXT NOT NULL,
    expires_at INTEGER,
    created_by BLOB NOT NULL REFERENCES users (id),
    created_at INTEGER NOT NULL,
    last_used_at INTEGER,
    revoked_at INTEGER
) STRICT;

-- Projects and API keys.

CREATE TABLE projects (
    id BLOB PRIMARY KEY,
    organization_id BLOB NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL,
    description TEXT,
    status TEXT NOT NULL CHECK (status IN ('Active', 'Archived')),
    template_id TEXT,
    allowed_models TEXT,
    ceiling TEXT, -- JSON object of limits
    created_by BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    archived_at INTEGER,
    version INTEGER NOT NULL
) STRICT;

CREATE INDEX projects_by_organization ON projects (organization_id, id);

CREATE TABLE project_members (
    project_id BLOB NOT NULL REFERENCES projects (id),
    user_id BLOB NOT NULL REFERENCES users (id),
    role TEXT NOT NULL CHECK (role IN ('Owner', 'Member')),
    added_by BLOB NOT NULL,
    added_at INTEGER NOT NULL,
    PRIMARY KEY (project_id, user_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE project_quotas (
    project_id BLOB PRIMARY KEY REFERENCES projects (id),
    limits TEXT NOT NULL, -- JSON object by field name; spend limits in nano-units
    enforce_quota INTEGER NOT NULL CHECK (enforce_quota IN (0, 1)),
    custom_reset_day INTEGER NOT NULL CHECK (custom_reset_day BETWEEN 1 AND 28),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    version INTEGER NOT NULL
) STRICT;

CREATE TABLE api_keys (
    id BLOB PRIMARY KEY,
    project_id BLOB NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    secret_hash BLOB NOT NULL UNIQUE, -- SHA-256 of the whole key
    previous_secret_hash BLOB UNIQUE, -- after a rotation, until previous_expires_at
    previous_expires_at INTEGER,
    last4 TEXT NOT NULL,
    owner_user_id BLOB,
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    disabled_reason TEXT,
    expires_at INTEGER,
    allowed_models TEXT,
    allowed_cidrs TEXT,
    requests_per_minute_limit INTEGER,
    monthly_spend_limit_nano INTEGER,
    metadata TEXT NOT NULL,
    created_by BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    last_used_at INTEGER,
    revoked_at INTEGER,
    version INTEGER NOT NULL
) STRICT;

CREATE INDEX api_keys_by_project ON api_keys (project_id, id);

-- Wallets and their records. A record is never changed.

CREATE TABLE wallets (
    organization_id BLOB PRIMARY KEY REFERENCES organizations (id),
    balance_nano INTEGER NOT NULL, -- current_balance_nano of the last record
    last_seq INTEGER NOT NULL,
    is_active INTEGER NOT NULL CHECK (is_active IN (0, 1)),
    deactivated_by_operator INTEGER NOT NULL CHECK (deactivated_by_operator IN (0, 1)),
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE wallet_records (
    organization_id BLOB NOT NULL,
    seq INTEGER NOT NULL,
    id BLOB NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('Recharge', 'Consume', 'Refund')),
    amount_nano INTEGER NOT NULL CHECK (amount_nano >= 0),
    previous_balance_nano INTEGER NOT NULL,
    current_balance_nano INTEGER NOT NULL,
    request_log_id BLOB,
    project_id BLOB,
    api_key_id BLOB,
    model TEXT,
    description TEXT, -- NULL: default text of the kind
    reference TEXT,
    actor TEXT, -- JSON object; NULL for a Consume
    settled_by TEXT,
    overage INTEGER NOT NULL CHECK (overage IN (0, 1)),
    late INTEGER NOT NULL CHECK (late IN (0, 1)),
    price_version TEXT,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (organization_id, seq),
    CHECK (
        current_balance_nano = previous_balance_nano
            + CASE kind WHEN 'Consume' THEN -amount_nano ELSE amount_nano END
    )
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX one_consume_per_call ON wallet_records (request_log_id) WHERE kind = 'Consume';
CREATE INDEX refunds_by_call ON wallet_records (request_log_id) WHERE kind = 'Refund';

CREATE TRIGGER wallet_records_are_never_changed BEFORE UPDATE ON wallet_records
BEGIN SELECT RAISE(ABORT, 'a wallet record is never changed'); END;

CREATE TRIGGER wallet_records_are_never_deleted BEFORE DELETE ON wallet_records
BEGIN SELECT RAISE(ABORT, 'a wallet record is never deleted'); END;

-- Finished calls and their usage, projected from the journal.

CREATE TABLE request_logs (
    project_id BLOB NOT NULL,
    id BLOB NOT NULL, -- UUIDv7, ordered by time
    organization_id BLOB NOT NULL,
    api_key_id BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('Completed', 'Refused', 'Failed', 'Cancelled')),
    status INTEGER NOT NULL,
    refusal TEXT,
    model TEXT,
    upstream TEXT,
    stream INTEGER NOT NULL CHECK (stream IN (0, 1)),
    cost_nano INTEGER NOT NULL,
    detail TEXT NOT NULL, -- JSON object: fields that no query filters by
    PRIMARY KEY (project_id, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage_days (
    project_id BLOB NOT NULL,
    day INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    spend_nano INTEGER NOT NULL,
    PRIMARY KEY (project_id, day)
) STRICT, WITHOUT ROWID;

-- The latest minute of each project only, so that a restart does not reset rate limits.
CREATE TABLE usage_minutes (
    project_id BLOB PRIMARY KEY,
    minute INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    spend_nano INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How far each journal chain is projected, and the calls that were open at that position.

CREATE TABLE journal_checkpoints (
    chain INTEGER PRIMARY KEY,
    segment INTEGER NOT NULL,
    position INTEGER NOT NULL -- bytes of that segment that are projected
) STRICT;

CREATE TABLE open_holds (
    request_log_id BLOB PRIMARY KEY,
    entry BLOB NOT NULL -- the Hold and the last Progress, in the journal's format
) STRICT, WITHOUT ROWID;

-- Operation of the gateway.

CREATE TABLE node_metadata (
    name TEXT PRIMARY KEY, -- 'node_id' or 'run'
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Responses of the admin API by Idempotency-Key.
CREATE TABLE admin_idempotency_keys (
    scope BLOB NOT NULL, -- SHA-256 of organization, actor, method, path and key
    fingerprint BLOB NOT NULL, -- SHA-256 of the body
    status INTEGER, -- NULL while the first request runs
    response_body TEXT,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (scope)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit_log (
    id BLOB PRIMARY KEY,
    created_at INTEGER NOT NULL,
    organization_id BLOB,
    actor TEXT NOT NULL, -- JSON object
    action TEXT NOT NULL,
    target TEXT NOT NULL, -- JSON object
    before TEXT,
    after TEXT,
    outcome TEXT NOT NULL CHECK (outcome IN ('Done', 'Denied')),
    client_address TEXT,
    request_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX audit_log_by_organization ON audit_log (organization_id, id);
