-- The prices of each version that a record refers to, so that its cost can be recomputed.

CREATE TABLE price_lists (
    version TEXT PRIMARY KEY,
    prices TEXT NOT NULL CHECK (json_valid(prices)), -- JSON list: one object per tier and input size
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER price_lists_are_never_changed BEFORE UPDATE ON price_lists
BEGIN SELECT RAISE(ABORT, 'a price list is never changed'); END;

CREATE TRIGGER price_lists_are_never_deleted BEFORE DELETE ON price_lists
BEGIN SELECT RAISE(ABORT, 'a price list is never deleted'); END;
