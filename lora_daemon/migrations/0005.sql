-- Health: what was measured of a picture's file, once for each content, and what a dataset is for.

CREATE TABLE facts (
    content   TEXT PRIMARY KEY,         -- SHA-256 of the file, hex
    turned    INTEGER NOT NULL,         -- 1: EXIF turns or mirrors it
    alpha     INTEGER NOT NULL,         -- 1: some of it can be seen through
    profile   TEXT NOT NULL,            -- of its colours where they are not sRGB's; else empty
    blur      REAL,                     -- 0 sharp … 1; NULL: nothing to judge it by
    darkest   REAL NOT NULL,            -- brightness below which 1 % of the pixels are, 0 … 1
    brightest REAL NOT NULL,            -- and above which 1 % are
    hash      INTEGER,                  -- perceptual, 64 bits; NULL: nothing is to be seen
    colours   BLOB NOT NULL             -- 4 × 4 pixels, RGB
) STRICT, WITHOUT ROWID;

-- Contents that look nearly the same: those of one group.
CREATE TABLE near (
    dataset  TEXT NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    content  TEXT NOT NULL,
    together INTEGER NOT NULL,
    PRIMARY KEY (dataset, content)
) STRICT, WITHOUT ROWID;

CREATE TABLE checks (
    dataset      TEXT PRIMARY KEY REFERENCES datasets (id) ON DELETE CASCADE,
    resolution   INTEGER NOT NULL,      -- pixels it is to be trained at
    trigger_word TEXT NOT NULL,
    at           REAL,                  -- when all of it was last checked
    orphans      TEXT NOT NULL          -- JSON: caption files without a picture
) STRICT, WITHOUT ROWID;

CREATE INDEX items_content ON items (dataset, content);
