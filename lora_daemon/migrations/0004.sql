-- Mixes: the live one has no name. What was tried, with the picture's file in cache/mix.

CREATE TABLE mixes (
    name TEXT PRIMARY KEY,
    mix  BLOB NOT NULL                  -- wire.Mix
) STRICT;

CREATE TABLE tried (
    id    TEXT PRIMARY KEY,
    at    REAL NOT NULL,
    key   TEXT NOT NULL,                -- of all that decides the picture's pixels
    tried BLOB NOT NULL                 -- wire.Tried
) STRICT;
