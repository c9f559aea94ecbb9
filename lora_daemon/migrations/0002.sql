-- Pictures counted as they change, so that the numbers of a large dataset cost nothing to read.

CREATE TABLE counts (
    dataset  TEXT NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    state    TEXT NOT NULL,             -- of the captions
    items    INTEGER NOT NULL,
    empty    INTEGER NOT NULL,          -- whose caption is empty
    problems INTEGER NOT NULL,          -- that cannot be used
    PRIMARY KEY (dataset, state)
) STRICT, WITHOUT ROWID;

INSERT INTO counts
SELECT dataset, state, count(*), sum(text = ''), sum(problem <> '') FROM items GROUP BY dataset, state;

CREATE TRIGGER items_counted AFTER INSERT ON items BEGIN
    INSERT INTO counts VALUES (NEW.dataset, NEW.state, 1, NEW.text = '', NEW.problem <> '')
    ON CONFLICT (dataset, state) DO UPDATE SET
        items = items + 1, empty = empty + excluded.empty, problems = problems + excluded.problems;
END;

CREATE TRIGGER items_uncounted AFTER DELETE ON items BEGIN
    UPDATE counts SET
        items = items - 1, empty = empty - (OLD.text = ''), problems = problems - (OLD.problem <> '')
    WHERE dataset = OLD.dataset AND state = OLD.state;
END;

CREATE TRIGGER items_recounted AFTER UPDATE OF dataset, state, text, problem ON items BEGIN
    UPDATE counts SET
        items = items - 1, empty = empty - (OLD.text = ''), problems = problems - (OLD.problem <> '')
    WHERE dataset = OLD.dataset AND state = OLD.state;
    INSERT INTO counts VALUES (NEW.dataset, NEW.state, 1, NEW.text = '', NEW.problem <> '')
    ON CONFLICT (dataset, state) DO UPDATE SET
        items = items + 1, empty = empty + excluded.empty, problems = problems + excluded.problems;
END;

DROP INDEX items_empty;
DROP INDEX items_problem;
