-- What captioners say beside a caption that is there already.

CREATE TABLE candidates (
    item    TEXT NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    model   TEXT NOT NULL,              -- the captioner, as it was asked for
    content TEXT NOT NULL,              -- SHA-256 of the picture it saw
    text    TEXT NOT NULL,
    by      TEXT NOT NULL,              -- who asked
    at      REAL NOT NULL,
    PRIMARY KEY (item, model)
) STRICT, WITHOUT ROWID;
