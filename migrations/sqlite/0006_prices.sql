-- Prices that the admin API has laid over those of the configuration's file. A price is never edited:
-- it ends, and another begins.

CREATE TABLE prices (
    id BLOB PRIMARY KEY,
    model TEXT NOT NULL,
    upstream TEXT, -- NULL: wherever it is served
    service_tier TEXT NOT NULL,
    prices TEXT NOT NULL CHECK (json_valid(prices)), -- JSON object: a decimal text a unit
    tiers TEXT NOT NULL CHECK (json_valid(tiers)), -- JSON list of {aboveInputTokens, prices}
    effective_from INTEGER NOT NULL,
    effective_to INTEGER CHECK (effective_from <= effective_to), -- NULL: until it is closed
    price_version TEXT NOT NULL,
    created_by BLOB NOT NULL REFERENCES users (id),
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX prices_by_place ON prices (model, upstream, service_tier, effective_from);

CREATE TRIGGER prices_are_never_edited
BEFORE UPDATE OF id, model, upstream, service_tier, prices, tiers, effective_from, price_version,
    created_by, created_at ON prices
BEGIN SELECT RAISE(ABORT, 'a price is never edited'); END;
