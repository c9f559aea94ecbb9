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
    path    TEXT NOT NULL UNIQUE,       -- absolute, as shared.filenames has it
    created REAL NOT NULL
) STRICT;

CREATE TABLE items (
    id      TEXT PRIMARY KEY,
    dataset TEXT NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    name    TEXT NOT NULL,              -- relative to the dataset's folder, as shared.filenames has it
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
    written TEXT NOT NULL DEFAULT '',   -- SHA-256 of the side-car's bytes as last read or written
    pending INTEGER NOT NULL DEFAULT 0, -- 1: the caption has yet to be written to the side-car
    UNIQUE (dataset, name)
) STRICT;
CREATE INDEX items_state ON items (dataset, state, name);
CREATE INDEX items_empty ON items (dataset) WHERE text = '';
CREATE INDEX items_problem ON items (dataset) WHERE problem <> '';
CREATE INDEX items_pending ON items (dataset) WHERE pending <> 0;

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
    undoes  INTEGER,                    -- the op this one takes back, or does again
    undone  INTEGER NOT NULL DEFAULT 0  -- 1: taken back; 2: somebody else's change lies on top
) STRICT;
CREATE INDEX ops_by ON ops (dataset, by, op);
CREATE INDEX revisions_op ON revisions (op);

CREATE TABLE runs (
    id       TEXT PRIMARY KEY,
    position INTEGER NOT NULL,          -- in the queue
    run      BLOB NOT NULL              -- msgpack of wire.Run
) STRICT;

CREATE TABLE checkpoints (
    run   TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    path  TEXT NOT NULL,                -- relative to the run directory
    step  INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    size  INTEGER NOT NULL,             -- bytes
    final INTEGER NOT NULL,
    PRIMARY KEY (run, path)
) STRICT, WITHOUT ROWID;

-- What a run's owner should know.
CREATE TABLE notes (
    run  TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,                 -- skipped, warning
    path TEXT NOT NULL,                 -- of the skipped picture; else empty
    text TEXT NOT NULL,
    PRIMARY KEY (run, kind, path, text)
) STRICT, WITHOUT ROWID;

CREATE TABLE loras (
    name TEXT PRIMARY KEY,
    run  TEXT NOT NULL,                 -- empty if brought from elsewhere
    lora BLOB NOT NULL                  -- msgpack of wire.Lora
) STRICT;
CREATE INDEX loras_run ON loras (run);

CREATE TABLE bases (
    name TEXT PRIMARY KEY,
    base BLOB NOT NULL                  -- msgpack of wire.BaseModel
) STRICT;

CREATE TABLE pictures (
    id      TEXT PRIMARY KEY,
    run     TEXT NOT NULL,              -- empty if made by generate
    created REAL NOT NULL,
    picture BLOB NOT NULL               -- msgpack of wire.Picture
) STRICT;
CREATE INDEX pictures_run ON pictures (run);
CREATE INDEX pictures_created ON pictures (created);
