-- Limits and usage belong to a subject: a project, an API key or an organization. All ids are UUIDs,
-- so one column can hold any of them.

ALTER TABLE organizations ADD COLUMN output_clamp INTEGER NOT NULL DEFAULT 1
    CHECK (output_clamp IN (0, 1)); -- whether output limits may be lowered

-- The quota of a project, or of all projects of an organization together.
CREATE TABLE quotas (
    subject_id BLOB PRIMARY KEY,
    limits TEXT NOT NULL, -- JSON object by field name; spend limits in nano-units
    enforce_quota INTEGER NOT NULL CHECK (enforce_quota IN (0, 1)),
    custom_reset_day INTEGER NOT NULL CHECK (custom_reset_day BETWEEN 1 AND 28),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    version INTEGER NOT NULL
) STRICT;

INSERT INTO quotas
    (subject_id, limits, enforce_quota, custom_reset_day, created_at, updated_at, version)
SELECT project_id, limits, enforce_quota, custom_reset_day, created_at, updated_at, version
FROM project_quotas;

DROP TABLE project_quotas;

ALTER TABLE usage_days RENAME COLUMN project_id TO subject_id;

-- The usage of an organization is the sum of the usage of its projects.
INSERT INTO usage_days (subject_id, day, requests, input_tokens, output_tokens, spend_nano)
SELECT p.organization_id, u.day, sum(u.requests), sum(u.input_tokens), sum(u.output_tokens),
    sum(u.spend_nano)
FROM usage_days u JOIN projects p ON p.id = u.subject_id
GROUP BY p.organization_id, u.day;

-- The usage of a key is computed from its request logs: by the day of arrival, and counted as a
-- request if an upstream was tried. The spend is exact.
INSERT INTO usage_days (subject_id, day, requests, input_tokens, output_tokens, spend_nano)
SELECT api_key_id, created_at / 86400000,
    sum(coalesce(json_extract(detail, '$.attempts'), 0) > 0),
    sum(coalesce(json_extract(detail, '$.usage.inputTokens'), 0)),
    sum(coalesce(json_extract(detail, '$.usage.outputTokens'), 0)),
    sum(cost_nano)
FROM request_logs
WHERE outcome <> 'Refused'
GROUP BY api_key_id, created_at / 86400000;

ALTER TABLE usage_minutes RENAME COLUMN project_id TO subject_id;

-- The minute of an organization is the latest minute of its projects. The minutes of keys are not
-- known; they start with the next call.
WITH latest AS (
    SELECT p.organization_id, max(m.minute) AS minute
    FROM usage_minutes m JOIN projects p ON p.id = m.subject_id
    GROUP BY p.organization_id
)
INSERT INTO usage_minutes (subject_id, minute, requests, tokens, spend_nano)
SELECT l.organization_id, l.minute, sum(m.requests), sum(m.tokens), sum(m.spend_nano)
FROM latest l
JOIN projects p ON p.organization_id = l.organization_id
JOIN usage_minutes m ON m.subject_id = p.id AND m.minute = l.minute
GROUP BY l.organization_id, l.minute;
