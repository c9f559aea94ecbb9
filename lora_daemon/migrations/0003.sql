-- Filters: what they ask of a caption is kept beside it, and those with a name.

ALTER TABLE items ADD COLUMN tags TEXT NOT NULL DEFAULT ''; -- ",red,a dragon,": the caption's parts, a-z
ALTER TABLE items ADD COLUMN tokens INTEGER; -- of the caption, without start and end; NULL: not counted
CREATE INDEX items_tokenless ON items (dataset) WHERE tokens IS NULL;

CREATE TRIGGER items_tagged AFTER UPDATE OF text, tags ON items
WHEN NEW.text <> OLD.text OR NEW.tags = '' BEGIN
    UPDATE items SET
        tokens = CASE WHEN NEW.text = OLD.text THEN tokens END,
        tags = ',' || replace(replace(trim(
            replace(replace(replace(replace(replace(replace(lower(NEW.text),
                char(13), ' '), char(9), ' '), char(10), ','), '    ', ' '), '  ', ' '), '  ', ' ')
        ), ', ', ','), ' ,', ',') || ','
    WHERE id = NEW.id;
END;

CREATE TRIGGER items_tagged_first AFTER INSERT ON items WHEN NEW.text <> '' BEGIN
    UPDATE items SET tags = '' WHERE id = NEW.id;
END;

UPDATE items SET tags = '';

CREATE TABLE filters (
    name   TEXT PRIMARY KEY,
    filter TEXT NOT NULL,               -- as shared.filters reads it
    by     TEXT NOT NULL,
    at     REAL NOT NULL
) STRICT;
