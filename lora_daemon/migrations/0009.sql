-- The gallery: pictures of other tools, where they lie; what ours were asked for with; ratings.

CREATE TABLE imported (
    id      TEXT PRIMARY KEY,
    path    TEXT NOT NULL UNIQUE,
    size    INTEGER NOT NULL,           -- of the file when it was read, in bytes
    mtime   INTEGER NOT NULL,           -- likewise, in ns
    picture BLOB NOT NULL               -- wire.GalleryPicture, msgpack
) STRICT, WITHOUT ROWID;

CREATE TABLE asked (
    picture TEXT PRIMARY KEY,           -- the id of one of our own
    spec    BLOB NOT NULL               -- shared.pictures.PictureSpec, msgpack
) STRICT, WITHOUT ROWID;

CREATE TABLE ratings (
    picture TEXT PRIMARY KEY,           -- ours or imported
    rating  INTEGER NOT NULL,           -- 1 to 5
    by      TEXT NOT NULL,
    at      REAL NOT NULL               -- Unix seconds
) STRICT, WITHOUT ROWID;
