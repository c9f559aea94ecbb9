"""How much words count: the notation as the WebUI's own documentation and examples have it."""

from __future__ import annotations

import pytest

from shared.emphasis import Part, naming, plain, read


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        (r"a \\ b", [("a \\ b", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("[less]", [("less", 1 / 1.1)]),
        ("((more))", [("more", 1.1 * 1.1)]),
        ("(word:1.2)", [("word", 1.2)]),
        ("(word: .5 )", [("word", 0.5)]),
        ("(no:1.2.3)", [("no:1.2.3", 1.1)]),
        ("a:1.2) b", [("a:1.2) b", 1.0)]),
        ("so] it ) is", [("so] it ) is", 1.0)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0), ("house", 1.573), (" ", 1.1), ("on", 1.0), (" a ", 1.1),
                ("hill", 0.55), (", sun, ", 1.1), ("sky", 1.4641), (".", 1.1),
            ],
        ),
    ],
)  # fmt: skip
def test_words_count_as_they_are_written(prompt: str, parts: list[tuple[str, float]]) -> None:
    (section,) = read(prompt)
    assert [part.text for part in section] == [text for text, _ in parts]
    assert [part.weight for part in section] == pytest.approx([weight for _, weight in parts])


def test_break_begins_a_section_also_inside_brackets_and_only_as_a_word() -> None:
    assert read("a BREAK b") == [[Part("a")], [Part("b")]]
    assert read("(a BREAK b:1.2)") == [[Part("a", 1.2)], [Part("b", 1.2)]]
    assert read("BREAKFAST") == [[Part("BREAKFAST")]]
    assert read("BREAK") == [[], []]


def test_only_a_prompt_without_any_notation_is_plain() -> None:
    assert plain("") and plain("a cat, sitting: on 3 mats")
    assert not any(plain(text) for text in ("(a)", "[a]", r"\(a\)", "a BREAK b", "(a", "(a:1)"))


def test_names_are_found_as_whole_words_the_longest_first() -> None:
    found = [match[0] for match in naming(["bad", "bad-hands", "x+"]).finditer(
        "BAD, badly, bad-hands; my_bad X+")]  # fmt: skip
    assert found == ["BAD", "bad-hands", "X+"]


def test_brackets_without_end_take_no_time_to_speak_of() -> None:
    assert read("(" * 10_000) == [[]]
    assert read("(" * 5_000 + "]" * 5_000) == [[Part("]" * 5_000, pytest.approx(1.1**5000))]]
