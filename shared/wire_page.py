"""``docs/wire.md``, written from the message types: ``python -m shared.wire_page``."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import types
import typing
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec

from shared import wire
from shared.errors import Code

INTRODUCTION = f"""# The wire

Written by `python -m shared.wire_page` from `shared/wire.py`; a test fails when it is stale.

One ROUTER socket in the daemon, one DEALER in each client. A message is ZeroMQ frames:

    [magic + version]  [msgpack header: one message]  [attachment …]

The first frame is `{wire.MAGIC!r}`: `LORA` and the version of this framing. The header is a
MessagePack map; its `type` says which message it is. A request, an event and a live value are told
apart by `op`, `event` and `live`. Fields that are not given have their default. Attachments are raw
bytes (pictures). Nothing is pickled.

Bounds: a header of {wire.MAX_HEADER >> 20} MiB, {wire.MAX_BLOBS} attachments of
{wire.MAX_BLOB >> 20} MiB each. This side speaks protocol {wire.PROTOCOL[0]} to {wire.PROTOCOL[1]}.

## A conversation

1. The client says `hello`: the protocol versions it speaks, who it is, what it last knew
   (`resume`). The daemon answers `welcome`, or `refused` with a sentence that says what to install.
   Anything else from a stranger is `refused` with `say_hello`: messages queued while a daemon was
   down reach the next one before any hello.
2. With `subscribe` there follows a `snapshot` at sequence number N and every event after N, each
   exactly once and in order; or, where the journal named by `incarnation` reaches back to
   `resume.seq`, only the events after that. A client that sees each number once has missed nothing.
3. A `call` is answered by `answer` or `failed` with its `id`; `progress` may come before. `cancel`
   gives it up. A request marked *changes* carries a `key`: the daemon remembers the answer with the
   effect, in one transaction, so that the same key again gets that answer and no second effect. A
   client that lost its connection sends what is unanswered again, with the same keys.
4. Live values are lossy: for each client a newer one replaces an unsent older one of the same
   thing, and they are sent at most four times a second.
5. A client that does not read has its queue dropped at 16 MiB. When it reads again it gets `resync`
   and a snapshot, and sends its unanswered calls again.
6. Either side takes the other for gone after {wire.LIVENESS:.0f} s of silence; a client pings after
   {wire.PING_EVERY:.0f} s. `bye` ends a session, `leaving` tells of the daemon's end.
"""

FAMILIES = {
    wire.AnyRequest: "a [request](#requests)",
    wire.AnyEvent: "an [event](#events)",
    wire.AnyLive: "[live value](#live-values)",
}


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    parts += ["## Client to daemon\n", *map(_message, get_args(wire.ClientMessage))]
    parts += ["## Daemon to client\n", *map(_message, get_args(wire.DaemonMessage))]
    parts += ["## Requests\n", *map(_request, get_args(wire.AnyRequest))]
    parts += ["## Events\n", *map(_message, get_args(wire.AnyEvent))]
    parts += ["## Live values\n", *map(_message, get_args(wire.AnyLive))]
    parts += ["## Values\n", *map(_value, _values())]
    parts += ["## Error codes\n", _codes()]
    return "\n".join(parts)


def main() -> None:
    """Write the page."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/wire.md")
    target.parent.mkdir(exist_ok=True)
    target.write_text(page(), "utf-8")


def _message(kind: type[msgspec.Struct]) -> str:
    return f"### `{kind.__struct_config__.tag}` · {kind.__name__}\n\n{_body(kind)}"


def _request(kind: type[wire.Request[Any]]) -> str:
    changes = ", *changes*" if kind.changes else ""
    answer = wire.answer_type(kind).__name__
    title = f"### `{kind.__struct_config__.tag}` · {kind.__name__} → {_link(answer)}{changes}"
    return f"{title}\n\n{_body(kind)}"


def _value(kind: type[msgspec.Struct]) -> str:
    shape = "An array, in this order. " if kind.__struct_config__.array_like else ""
    return f"### {kind.__name__}\n\n{shape}{_body(kind)}"


def _body(kind: type[msgspec.Struct]) -> str:
    own = kind.__dict__.get("__doc__") or ""
    text = inspect.cleandoc(own) + "\n" if own and not own.startswith(f"{kind.__name__}(") else ""
    lines = [
        f"- `{field.name}`: {_type(field.type)}{_default(field)}{_comment(kind, field.name)}"
        for field in msgspec.structs.fields(kind)
    ]
    if not lines:
        return text or "No fields.\n"
    return text + ("\n" if text else "") + "\n".join(lines) + "\n"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return ""
    if field.default_factory is not msgspec.NODEFAULT:
        return f", default `{_json(field.default_factory())}`"
    return f", default `{_json(field.default)}`"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _comment(kind: type[msgspec.Struct], field: str) -> str:
    """The comment beside the field."""
    for line in _source(kind):
        code, _, comment = line.partition("  # ")
        if comment and code.strip().startswith(f"{field}:"):
            return f" — {comment.strip()}"
    return ""


def _source(kind: type) -> list[str]:
    """The lines of a class."""
    lines, classes = _module(kind.__module__)
    first, last = classes[kind.__name__]
    return lines[first:last]


@functools.cache
def _module(name: str) -> tuple[list[str], dict[str, tuple[int, int]]]:
    """A module's lines and where its classes are; inspect.getsource parses anew for each."""
    text = inspect.getsource(sys.modules[name])
    return text.splitlines(), {
        node.name: (node.lineno - 1, node.end_lineno or node.lineno)
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef)
    }


def _type(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is type(None):
        return "null"
    if origin is typing.Literal:
        return " \\| ".join(f'"{value}"' for value in arguments)
    if origin in (typing.Union, types.UnionType):
        families = {
            wire.AnyRequest: "a request",
            wire.AnyEvent: "an event",
            wire.AnyLive: "a value",
        }
        return families.get(kind, " \\| ".join(map(_type, arguments)))
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(map(_type, arguments))}]"
    if origin is dict:
        return f"map of {_type(arguments[0])} to {_type(arguments[1])}"
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _link(kind.__name__)
    return str(getattr(kind, "__name__", kind))


def _link(name: str) -> str:
    """To a type's heading, by the name that GitHub gives it: a message's begins with its tag."""
    kind: Any = getattr(wire, name, None)
    tag = kind.__struct_config__.tag if kind in get_args(wire.AnyLive) else ""
    return f"[{name}](#{tag}{'--' * bool(tag)}{name.lower()})"


def _values() -> list[type[msgspec.Struct]]:
    """Every type that occurs inside messages, by name."""
    found: dict[str, type[msgspec.Struct]] = {}
    tagged = {
        *get_args(wire.ClientMessage), *get_args(wire.DaemonMessage), *get_args(wire.AnyRequest),
        *get_args(wire.AnyEvent), *get_args(wire.AnyLive),
    }  # fmt: skip

    def visit(kind: Any) -> None:
        for argument in get_args(kind):
            visit(argument)
        if not isinstance(kind, type) or not issubclass(kind, msgspec.Struct):
            return
        if kind not in tagged:
            if kind.__name__ in found:
                return
            found[kind.__name__] = kind
        for field in msgspec.structs.fields(kind):
            visit(field.type)

    for kind in tagged:
        visit(kind)
    for request in get_args(wire.AnyRequest):
        visit(wire.answer_type(request))
    return [found[name] for name in sorted(found)]


def _codes() -> str:
    lines = ["A `failed` or `refused` carries one of these; the list is closed.\n"]
    source = _source(Code)
    for code in Code:
        found = (line.partition("  # ")[2] for line in source if f"{code.name} =" in line)
        comment = next(found, "")
        lines.append(f"- `{code}`{' — ' + comment if comment else ''}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
