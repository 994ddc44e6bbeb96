-- Price overrides set by the admin API. They replace prices of the configuration file. A price is never
-- edited: it ends, and another begins.

CREATE TABLE prices (
    id BLOB PRIMARY KEY,
    model TEXT NOT NULL,
    upstream TEXT, -- NULL: all upstreams
    service_tier TEXT NOT NULL,
    prices TEXT NOT NULL CHECK (json_valid(prices)), -- JSON object: one decimal string per unit
    tiers TEXT NOT NULL CHECK (json_valid(tiers)), -- JSON list of {aboveInputTokens, prices}
    effective_from INTEGER NOT NULL,
    effective_to INTEGER CHECK (effective_from <= effective_to), -- NULL: no end
    price_version TEXT NOT NULL,
    created_by BLOB NOT NULL REFERENCES users (id),
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX prices_by_upstream ON prices (model, upstream, service_tier, effective_from);

CREATE TRIGGER prices_are_never_edited
BEFORE UPDATE OF id, model, upstream, service_tier, prices, tiers, effective_from, price_version,
    created_by, created_at ON prices
BEGIN SELECT RAISE(ABORT, 'a price is never edited'); END;
