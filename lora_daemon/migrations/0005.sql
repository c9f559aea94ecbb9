-- Health: what was measured of a picture's file, once for each content, and what a dataset is for.

CREATE TABLE facts (
    content TEXT PRIMARY KEY,           -- SHA-256 of the file, hex
    looks   INTEGER NOT NULL,           -- a bit for each of shared.health.LOOKS
    profile TEXT NOT NULL,              -- of its colours where they are not sRGB's; else empty
    hash    INTEGER,                    -- perceptual, 64 bits; NULL: nothing is to be seen
    colours BLOB NOT NULL               -- 4 × 4 pixels, RGB
) STRICT, WITHOUT ROWID;

ALTER TABLE items ADD COLUMN looks INTEGER; -- of its content; NULL: not measured yet

CREATE TRIGGER items_looked AFTER INSERT ON items
WHEN EXISTS (SELECT 1 FROM facts WHERE content = NEW.content) BEGIN
    UPDATE items SET looks = (SELECT looks FROM facts WHERE content = NEW.content)
    WHERE id = NEW.id;
END;

CREATE TRIGGER items_looked_again AFTER UPDATE OF content ON items
WHEN NEW.content <> OLD.content BEGIN
    UPDATE items SET looks = (SELECT looks FROM facts WHERE content = NEW.content)
    WHERE id = NEW.id;
END;

CREATE TRIGGER facts_known AFTER INSERT ON facts BEGIN
    UPDATE items SET looks = NEW.looks
    WHERE content = NEW.content AND dataset IN (SELECT id FROM datasets); -- items_content
END;

CREATE TRIGGER facts_forgotten AFTER DELETE ON facts BEGIN
    UPDATE items SET looks = NULL
    WHERE content = OLD.content AND dataset IN (SELECT id FROM datasets);
END;

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
