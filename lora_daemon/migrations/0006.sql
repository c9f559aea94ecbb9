-- Which checkpoint: what each picture's loss was in the last run that saw it, and what people chose.

CREATE TABLE losses (
    item       TEXT PRIMARY KEY REFERENCES items (id) ON DELETE CASCADE,
    run        TEXT NOT NULL,           -- that saw it last
    loss       REAL NOT NULL,
    percentile REAL NOT NULL            -- 0 to 100, among the run's pictures
) STRICT, WITHOUT ROWID;

-- Two pictures seen without their names, and which was taken. The last can be taken back.
CREATE TABLE choices (
    number INTEGER PRIMARY KEY,
    run    TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    one    TEXT NOT NULL,               -- candidates, by their names
    other  TEXT NOT NULL,
    prompt TEXT NOT NULL,
    taken  TEXT NOT NULL,               -- one of the two; empty: neither is better
    by     TEXT NOT NULL,
    at     REAL NOT NULL
) STRICT;
CREATE INDEX choices_run ON choices (run, number);
