"""Pictures for terminals: what is sent is decoded again here, by the protocols' own rules."""

from __future__ import annotations

import base64
import io
import os
import re
import termios
import threading

import pytest
from PIL import Image, ImageChops, ImageStat
from rich.color import EIGHT_BIT_PALETTE, ColorType
from textual.strip import Strip

from lora_tui import pixels
from lora_tui.graphics import iterm2, kitty, query, sixel
from lora_tui.graphics.detect import Terminal, detect
from lora_tui.graphics.tmux import Client
from shared.errors import LoraError


def picture(width: int = 96, height: int = 64, kind: str = "PNG") -> bytes:
    """Red grows to the right, green downwards, with a blue square."""
    down = Image.linear_gradient("L")
    across = down.transpose(Image.Transpose.ROTATE_90)
    image = Image.merge("RGB", (across, down, Image.new("L", (256, 256)))).resize((width, height))
    image.paste((0, 0, 255), (width // 4, height // 4, width // 2, height // 2))
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean over all channels, of 255."""
    assert one.size == other.size
    apart = ImageChops.difference(one.convert("RGB"), other.convert("RGB"))
    return sum(ImageStat.Stat(apart).mean) / 3


def kitty_commands(text: str) -> list[tuple[dict[str, str], str]]:
    """Options and payload of each command; nothing else may be in ``text``."""
    found = re.findall(r"\x1b_G([^;\x1b]*);?([^\x1b]*)\x1b\\", text)
    assert re.sub(r"\x1b_G[^\x1b]*\x1b\\", "", text) == ""
    return [(dict(part.split("=") for part in head.split(",")), body) for head, body in found]


def sixel_picture(text: str) -> Image.Image:
    """A decoder of Sixel."""
    head = re.match(r'\x1bP[\d;]*q"1;1;(\d+);(\d+)', text)
    assert head and text.endswith("\x1b\\")
    width, height = int(head[1]), int(head[2])
    image = Image.new("RGB", (width, height), (255, 0, 255))
    palette: dict[int, tuple[int, ...]] = {}
    x = top = colour = 0
    for number, parts, count, bits, step in re.findall(
        r"#(\d+)(;2;\d+;\d+;\d+)?|(?:!(\d+))?([?-~])|([$-])", text[head.end() : -2]
    ):
        if number:
            colour = int(number)
            if parts:
                percent = parts.split(";")[2:]
                palette[colour] = tuple(round(int(part) * 255 / 100) for part in percent)
        elif step == "$":
            x = 0
        elif step == "-":
            x, top = 0, top + 6
        else:
            for here in range(x, x + int(count or 1)):
                for row in range(6):
                    if (ord(bits) - 63) >> row & 1:
                        assert here < width and top + row < height, "outside the picture"
                        image.putpixel((here, top + row), palette[colour])
            x += int(count or 1)
    return image


def test_kitty_sends_the_picture_in_pieces_under_a_number() -> None:
    png = kitty.encode(picture(600, 400), 600, 400)
    commands = kitty_commands(kitty.sent(png, 77, 30, 10, tmux=False))
    assert len(commands) > 1 and all(len(body) <= 4096 for _, body in commands)
    first, *later = (options for options, _ in commands)
    assert first == {
        "a": "T", "U": "1", "f": "100", "i": "77", "c": "30", "r": "10", "q": "2", "m": "1",
    }  # fmt: skip
    assert [options["m"] for options in later] == ["1"] * (len(later) - 1) + ["0"]
    shown = Image.open(io.BytesIO(base64.b64decode("".join(body for _, body in commands))))
    assert difference(shown, Image.open(io.BytesIO(picture(600, 400)))) < 6


def test_in_tmux_each_command_goes_through_to_the_terminal() -> None:
    png = kitty.encode(picture(), 96, 64)
    plain = kitty.sent(png, 9, 4, 2, tmux=False)
    wrapped = kitty.sent(png, 9, 4, 2, tmux=True)
    passed = re.findall(r"\x1bPtmux;((?:[^\x1b]|\x1b\x1b)*)\x1b\\", wrapped)
    assert "".join(one.replace("\x1b\x1b", "\x1b") for one in passed) == plain


def test_placeholders_say_number_row_and_column_and_can_be_cut() -> None:
    assert kitty.MOST == 297 and len(set(kitty.NUMBERS)) == 297
    _, colour = kitty.Numbers(narrow=False).take()
    rows = kitty.cells(colour, 200, 60)
    strip = Strip(rows[41])
    assert strip.cell_length == 200
    part = "".join(segment.text for segment in strip.crop(150, 153))
    assert [kitty.NUMBERS.index(char) for char in part if char != "\U0010eeee"] == [
        41, 150, 41, 151, 41, 152,
    ]  # fmt: skip


@pytest.mark.parametrize("narrow", [False, True])
def test_a_number_survives_in_the_colour(narrow: bool) -> None:
    numbers = kitty.Numbers(narrow=narrow)
    taken = [numbers.take() for _ in range(200)]
    assert len({number for number, _ in taken}) == 200
    for number, colour in taken:
        triplet = colour.get_truecolor()
        if narrow:  # what turns it into one of 256 finds the number
            small = colour.downgrade(ColorType.EIGHT_BIT)  # type: ignore[arg-type]
            assert EIGHT_BIT_PALETTE[number] == triplet
            assert small.number == number
        else:
            assert number == (triplet.red << 16 | triplet.green << 8 | triplet.blue) > 0xFFFF


def test_sixel_draws_the_picture() -> None:
    text = sixel.encode(picture(), 96, 64)
    assert text is not None
    assert difference(sixel_picture(text), Image.open(io.BytesIO(picture()))) < 8
    flat = sixel.encode(picture(3, 3), 90, 7)  # a height that is no multiple of six
    assert flat is not None and sixel_picture(flat).size == (90, 7)


def test_sixel_stops_once_it_is_stale() -> None:
    asked = []
    assert sixel.encode(picture(), 96, 96, lambda: len(asked) > 2 or bool(asked.append(1))) is None
    assert len(asked) == 3


def test_iterm2_sends_the_file_itself() -> None:
    jpeg = picture(kind="JPEG")
    text = iterm2.encode(jpeg, 12, 4)
    found = re.fullmatch(r"\x1b\]1337;File=([^:]*):([A-Za-z0-9+/=]*)\x07", text)
    assert found and base64.b64decode(found[2]) == jpeg
    options = dict(part.split("=") for part in found[1].split(";"))
    assert options["width"] == "12" and options["height"] == "4" and options["inline"] == "1"
    assert options["size"] == str(len(jpeg)) and options["doNotMoveCursor"] == "1"


@pytest.mark.parametrize(
    ("answer", "protocol"),
    [
        (b"\x1bP>|kitty(0.35.2)\x1b\\\x1b[?62;c", "kitty"),
        (b"\x1bP>|WezTerm 20240203\x1b\\\x1b[?65;4;6c", "iterm2"),
        (b"\x1bP>|XTerm(390)\x1b\\\x1b[?64;1;2;4;6;9;15c", "sixel"),
        (b"\x1b[?64;14c", "half-blocks"),
        (b"", ""),
    ],
)
def test_a_terminal_that_is_asked(answer: bytes, protocol: str) -> None:
    ours, theirs = os.openpty()
    before = termios.tcgetattr(theirs)

    def reply() -> None:
        while not asked.endswith(b"\x1b[c"):
            asked.extend(os.read(ours, 64))
        os.write(ours, answer)

    asked = bytearray()
    terminal = threading.Thread(target=reply)
    terminal.start()
    said = query.ask(20 if answer else 0.1, os.ttyname(theirs))
    terminal.join()
    assert (query.best(said).protocol if said else "") == protocol
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_what_is_no_picture_is_said() -> None:
    for encode in (kitty.encode, sixel.encode):
        with pytest.raises(LoraError, match="could not be read"):
            encode(b"\x89PNG but no more", 10, 10)


def test_half_blocks_keep_to_their_bytes() -> None:
    noise = Image.effect_noise((160, 160), 90).convert("RGB")
    out = io.BytesIO()
    noise.save(out, "PNG")
    for depth in ("full", "256"):
        lines = pixels.render(out.getvalue(), 40, 20, depth)
        sent = sum(
            len(segment.style.render(segment.text).encode()) for line in lines for segment in line
        )
        assert sent <= 40 * 20 * pixels.THRIFT * 1.1
        assert [sum(map(len, (s.text for s in line))) for line in lines] == [40] * 20
    gentle = pixels.render(picture(), 40, 20, "full")
    assert sum(map(len, gentle)) > 200  # nothing is given up where it fits


def test_cells_of_another_shape_show_the_picture_in_its_own() -> None:
    assert pixels.fitted(100, 100, 40, 40) == (40, 20)
    assert pixels.fitted(100, 100, 40, 40, 2.5) == (40, 16)


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM": "foot-extra"}, "sixel"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "xterm-256color"}, "half-blocks"),
        ({"TERM": "screen", "STY": "1.pts", "KITTY_WINDOW_ID": "1"}, "half-blocks"),
        ({}, "half-blocks"),
    ],
)
def test_what_the_environment_says(environment: dict[str, str], protocol: str) -> None:
    assert detect("auto", environment).protocol == protocol
    assert detect("off", environment).protocol == "off"
    assert detect("sixel", environment).protocol == "sixel"


def test_inside_tmux_it_is_tmux_that_knows() -> None:
    inside = {"TERM": "tmux-256color", "TMUX": "/tmp/x,1,0", "KITTY_WINDOW_ID": "1"}

    def found(name: str, *features: str, passthrough: bool = True) -> Terminal:
        client = Client(name, frozenset(features), passthrough)
        return detect("auto", inside, lambda: client)

    assert found("kitty 0.35 xterm-kitty", "RGB") == Terminal(
        "kitty", "tmux is in kitty 0.35 xterm-kitty", tmux=True
    )
    assert found("ghostty xterm-ghostty").narrow
    closed = found("kitty xterm-kitty", "RGB", passthrough=False)
    assert closed.protocol == "half-blocks" and "allow-passthrough" in closed.why
    assert found("foot foot", "sixel").protocol == "sixel"
    assert found("xterm xterm-256color", "RGB").protocol == "half-blocks"
    assert detect("auto", inside, lambda: None).protocol == "half-blocks"
    assert detect("kitty", inside, lambda: None).tmux
