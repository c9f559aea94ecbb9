-- The first workspace. A migration is one transaction; never edit one that has been released.

CREATE TABLE journal (
    seq   INTEGER PRIMARY KEY,          -- gapless, in commit order
    at    REAL NOT NULL,                -- Unix seconds
    by    TEXT NOT NULL,                -- client name or the daemon's part
    event BLOB NOT NULL                 -- msgpack of one wire.AnyEvent
) STRICT;

-- The answer of every change, by the client's key: a retry gets it again and changes nothing.
CREATE TABLE effects (
    key    TEXT PRIMARY KEY,
    at     REAL NOT NULL,
    answer BLOB NOT NULL                -- msgpack
) STRICT;
CREATE INDEX effects_at ON effects (at);

CREATE TABLE datasets (
    id      TEXT PRIMARY KEY,
    name    TEXT NOT NULL UNIQUE,
    path    TEXT NOT NULL UNIQUE,
    created REAL NOT NULL
) STRICT;

CREATE TABLE items (
    id      TEXT PRIMARY KEY,
    dataset TEXT NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    name    TEXT NOT NULL,              -- relative to the dataset's folder; surrogate-escaped bytes as \xNN
    content TEXT NOT NULL,              -- SHA-256, hex
    width   INTEGER NOT NULL,
    height  INTEGER NOT NULL,
    size    INTEGER NOT NULL,
    mtime   INTEGER NOT NULL,           -- ns, to skip unchanged files on another import
    problem TEXT NOT NULL,
    text    TEXT NOT NULL,              -- the caption at its present revision
    state   TEXT NOT NULL,
    rev     INTEGER NOT NULL,
    source  TEXT NOT NULL,
    by      TEXT NOT NULL,
    at      REAL NOT NULL,
    sidecar TEXT NOT NULL DEFAULT '',   -- its file name beside the picture, if it has one
    written TEXT NOT NULL DEFAULT '',   -- SHA-256 of the side-car as last read or written
    UNIQUE (dataset, name)
) STRICT;
CREATE INDEX items_state ON items (dataset, state);

-- Every revision a caption ever had; undo walks back along `op`.
CREATE TABLE revisions (
    item   TEXT NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    rev    INTEGER NOT NULL,
    text   TEXT NOT NULL,
    state  TEXT NOT NULL,
    source TEXT NOT NULL,
    by     TEXT NOT NULL,
    at     REAL NOT NULL,
    op     INTEGER NOT NULL,            -- the change it belongs to
    PRIMARY KEY (item, rev)
) STRICT, WITHOUT ROWID;

CREATE TABLE ops (
    op      INTEGER PRIMARY KEY,
    dataset TEXT NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    by      TEXT NOT NULL,
    at      REAL NOT NULL,
    what    TEXT NOT NULL,              -- "edit of 003.png"
    undoes  INTEGER,                    -- the op this one takes back
    undone  INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE runs (
    id       TEXT PRIMARY KEY,
    position INTEGER NOT NULL,          -- in the queue
    run      BLOB NOT NULL              -- msgpack of wire.Run
) STRICT;

CREATE TABLE loras    (name TEXT PRIMARY KEY, lora BLOB NOT NULL) STRICT;
CREATE TABLE bases    (name TEXT PRIMARY KEY, base BLOB NOT NULL) STRICT;
CREATE TABLE pictures (id TEXT PRIMARY KEY, created REAL NOT NULL, picture BLOB NOT NULL) STRICT;
