-- Pictures turned and cropped, as data: their files stay as they are.

ALTER TABLE items ADD COLUMN framing TEXT NOT NULL DEFAULT ''; -- as shared.framing.stored has it

-- What an operation turned or cropped, so that it can be taken back.
CREATE TABLE reframed (
    op      INTEGER NOT NULL,
    item    TEXT NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    before  TEXT NOT NULL,
    framing TEXT NOT NULL,              -- as it left it
    PRIMARY KEY (op, item)
) STRICT, WITHOUT ROWID;
CREATE INDEX reframed_item ON reframed (item);
