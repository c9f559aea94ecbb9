"""The filter language: what it reads, and where it says a mistake is."""

from __future__ import annotations

import pytest

from shared.errors import Code
from shared.filters import (
    FIELDS,
    MOST_CHARACTERS,
    And,
    FilterError,
    Glob,
    Node,
    Not,
    Or,
    Range,
    Regex,
    Term,
    Wild,
    Words,
    parse,
    terms,
)


def word(text: str, field: str = "") -> Term:
    return Term(field, Words(text))


A, B, C = word("a"), word("b"), word("c")


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a b", And((A, B))),
        ("a AND b", And((A, B))),
        ("a OR b AND c", Or((A, And((B, C))))),
        ("a OR b c", Or((A, And((B, C))))),
        ("(a OR b) c", And((Or((A, B)), C))),
        ("(a OR b)c", And((Or((A, B)), C))),
        ("NOT a b", And((Not(A), B))),
        ("NOT (a OR NOT b)", Not(Or((A, Not(B))))),
        ("NOT NOT a", Not(Not(A))),
        ("and or not", And((word("and"), word("or"), word("not")))),
        ("ANDROID NOTE", And((word("ANDROID"), word("NOTE")))),
        ('tag:"blue eyes (left)"', word("blue eyes (left)", "tag")),
        (r"tag:miku_\(vocaloid\)", word("miku_(vocaloid)", "tag")),
        (r'"say \"hi\" \\ 50*"', word('say "hi" \\ 50*')),
        ("TAG:dragon", word("dragon", "tag")),
        ("tag:dra*n?", Term("tag", Glob(("dra", Wild.ANY, "n", Wild.ONE)))),
        ("a**b", Term("", Glob(("a", Wild.ANY, "b")))),
        (r"50\*", word("50*")),
        ("caption:/red (car|bus)$/", Term("caption", Regex("red (car|bus)$"))),
        (r"path:/a\/b/", Term("path", Regex("a/b"))),
        ("(/a b/)", Term("", Regex("a b"))),
        ("1:1 :d", And((word("1:1"), word(":d")))),
        ("龍 “wings”", And((word("龍"), word("“wings”")))),
        ("state:Flagged", word("flagged", "state")),
        ("tokens:>75", Term("tokens", Range(low=75, low_open=True))),
        ("tokens:>=75", Term("tokens", Range(low=75))),
        ("size:<512", Term("size", Range(high=512, high_open=True))),
        ("size:<=512", Term("size", Range(high=512))),
        ("size:512", Term("size", Range(512, 512))),
        ("size:=512", Term("size", Range(512, 512))),
        ("ratio:1.5..2", Term("ratio", Range(1.5, 2))),
        ("ratio:..0.75", Term("ratio", Range(high=0.75))),
        ("ratio:1.5..", Term("ratio", Range(low=1.5))),
        ("ratio:>16:9", Term("ratio", Range(low=1.78, low_open=True))),
        ("edited-by:ana", word("ana", "edited-by")),
    ],
)
def test_a_filter_reads_as(text: str, tree: Node) -> None:
    assert parse(text) == tree


@pytest.mark.parametrize("text", ["", "  ", "\n\t"])
def test_an_empty_filter_is_none(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    ("text", "wrong", "says"),
    [
        ("tga:dragon", "tga", "Did you mean tag:?"),
        ("a AND stat:flagged", "stat", "Did you mean state:?"),
        ("xyzzy:1", "xyzzy", "There is tag, caption,"),
        ("https://x.org", "https", "goes in quotes"),
        ("state:acepted", "acepted", "Did you mean accepted?"),
        ("issue:*", "*", "unusable, unchecked or any"),
        ("dup:exakt", "exakt", "Did you mean exact?"),
        ("a OR", "", "missing at the end"),
        ("a AND", "", "missing at the end"),
        ("NOT", "", "missing at the end"),
        ("OR a", "OR", "missing before this OR"),
        ("a AND OR b", "OR", "missing before this OR"),
        ("a ()", ")", "missing before this )"),
        ("(a OR b", "(", "never closed"),
        ("a) b", ")", "closes nothing"),
        ('tag:"a b', '"', "never closed"),
        ('""', '""', "issue:no-caption"),
        ('"a"b', "b", "A space is missing"),
        ("caption:/a", "/", "no closing /"),
        ("caption:/a\\/", "/", "no closing /"),
        ("//", "//", "is empty"),
        ("/a(b/", "(b", "makes no sense"),
        ("/a/b", "b", "A space is missing"),
        ("/(?L)a/", ")a", "makes no sense"),
        ("tag:a,b", "a,b", "tag:a AND tag:b"),
        ("tag:", "tag:", "tag:dragon*"),
        ("tag: dragon", "tag:", "right after it"),
        ("tokens:many", "many", "takes a number"),
        ("tokens:>", ">", "takes a number"),
        ("tokens:..", "..", "takes a number"),
        ("tokens:/7/", "/7/", "takes a number"),
        ("size:1..x", "1..x", "takes a number"),
        ("size:16:9", "16:9", "takes a number"),
        ("size:-5", "-5", "takes a number"),
        ("ratio:1:0", "1:0", "takes a number"),
        ("size:2..1", "2..1", "ends before it begins"),
        ("size:" + "9" * 400, "9" * 400, "takes a number"),
        ("a \udcff", "\udcff", "no valid text"),
        ("a" * (MOST_CHARACTERS + 1), "a", f"at most {MOST_CHARACTERS}"),
        ("a " * 101, "a ", "at most 100 conditions"),
        ("(" * 60 + "a" + ")" * 60, "(", "deeper"),
        ("NOT " * 60 + "a", "N", "deeper"),
    ],
)
def test_a_mistake_is_shown_where_it_is(text: str, wrong: str, says: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse(text)
    error = caught.value
    assert text[error.start : error.end] == wrong
    assert says in error.message
    assert error.code is Code.BAD_REQUEST
    assert error.data == {"start": error.start, "end": error.end}


def test_every_field_has_an_example_that_can_be_used() -> None:
    for name, field in FIELDS.items():
        assert [term.field for term in terms(parse(field.example))] == [name]


def test_no_text_makes_the_parser_fall_over() -> None:
    import itertools

    alphabet = ["a", "tag:", "size:", "(", ")", '"', "/", "\\", "*", " ", "NOT ", "OR ", ">", ".."]
    for length in range(1, 5):
        for parts in itertools.product(alphabet, repeat=length):
            try:
                parse("".join(parts))
            except FilterError as error:
                assert 0 <= error.start <= error.end <= len("".join(parts)) + 1
