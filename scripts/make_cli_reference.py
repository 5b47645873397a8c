"""Make docs/cli.md from the command line itself (`--check` compares instead)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

import typer

from thaw.cli.app import app
from thaw.cli.exits import ERROR_CODES, EXIT_CODES
from thaw.cli.shapes import OUTPUTS, ErrorJSON

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
INTRODUCTION = """\
<!-- Made by scripts/make_cli_reference.py; do not edit. -->

# The `thaw` command

{help} `python -m thaw` is the same
command. `thaw --install-completion` sets up completion for your shell.

Data goes to standard output, progress and errors to standard error. Progress is shown only where
standard error is a terminal. Where standard output is none, there is no color and no line is
broken, so that lines can be searched.

Names and metadata come from files that may be anyone's: control characters and direction overrides
in them are shown as `\\u{{1b}}`, a backslash as two. JSON has them as they are."""
WORDS = {int: "integer", str: "string", bool: "boolean", float: "number", NoneType: "null"}


def page() -> str:
    """Return the reference as Markdown."""
    command: Any = typer.main.get_command(app)
    blocks = [INTRODUCTION.format(help=command.help), *_exit_codes(), *_errors()]
    blocks.append("## Commands")
    blocks.append("\n".join(_contents(command)))
    for each in _shown(command.commands.values()):
        blocks += _command(each)
    blocks += _shapes()
    return "\n\n".join(blocks) + "\n"


def _contents(command: Any) -> Iterator[str]:
    for each in _shown(command.commands.values()):
        summary, anchor = _summary(each), each.name.replace(" ", "-")
        yield f"- [`thaw {each.name}`](#thaw-{anchor}): {summary[0].lower()}{summary[1:]}"


def _summary(command: Any) -> str:
    return str(command.help).split("\n\n", maxsplit=1)[0].replace("\n", " ")


def _exit_codes() -> Iterator[str]:
    yield "## Exit codes"
    yield _table(("exit code", "meaning"), ((str(n), text) for n, text in EXIT_CODES.items()))


def _errors() -> Iterator[str]:
    yield "## Errors"
    yield (
        "An error is one line on standard error: `thaw:`, the file, what is wrong and, if the "
        "file breaks a rule of the\nformat's specification, the error's code and the rule. With "
        "`--json` the last line of standard error is a JSON object:"
    )
    yield _members(ErrorJSON)
    yield (
        "The codes of `.thaw` files are those of [the specification](../spec/thaw-1.0.md), those "
        "of `.safetensors` files begin\nwith `safetensors-`. The others:"
    )
    yield _table(("code", "meaning"), ((f"`{code}`", text) for code, text in ERROR_CODES.items()))


def _command(command: Any) -> Iterator[str]:
    yield f"### thaw {command.name}"
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    needed = [each for each in command.params if each not in arguments and each.required]
    usage = ["thaw", command.name]
    usage += [each.metavar if each.required else f"[{each.metavar}]" for each in arguments]
    usage += [f"{min(each.opts, key=len)} {each.metavar}" for each in needed]
    usage.append("[OPTIONS]")
    # What follows two dashes comes last.
    usage.sort(key=lambda word: word.startswith("[--"))
    yield f"    {' '.join(usage)}"
    yield str(command.help)
    yield _table(("parameter", "meaning"), map(_parameter, _shown(command.params)))
    if command.name in OUTPUTS:
        yield f"With `--json` it prints {_type(OUTPUTS[command.name], article=True)}."


def _shown(items: Iterable[Any]) -> list[Any]:
    """Leave out commands that only tell of others, and options by their former names."""
    return [each for each in items if not getattr(each, "hidden", False)]


def _parameter(parameter: Any) -> tuple[str, str]:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar}`", parameter.help
    value = "" if parameter.is_flag else f" {parameter.metavar}"
    names = ", ".join(f"`{name}{value}`" for name in sorted(parameter.opts, key=len))
    default = parameter.default
    said = f" Default: `{default}`." if isinstance(default, str) and default else ""
    return names, parameter.help + said


def _shapes() -> Iterator[str]:
    yield "## JSON"
    yield (
        "These shapes are stable: new versions may add members; none is removed, renamed or given "
        "another meaning\nwithout a new major version."
    )
    for shape in dict.fromkeys(each for root in OUTPUTS.values() for each in _reachable(root)):
        yield f"### {_name(shape)}"
        yield str(shape.__doc__)
        yield _members(shape)


def _reachable(kind: Any) -> Iterator[Any]:
    if is_typeddict(kind):
        yield kind
        for each in get_type_hints(kind).values():
            yield from _reachable(each)
    for each in get_args(kind):
        yield from _reachable(each)


def _members(shape: type) -> str:
    rows = []
    for name, kind in get_type_hints(shape, include_extras=True).items():
        if get_origin(kind) is NotRequired:
            (kind,) = get_args(kind)
        meaning = ""
        if get_origin(kind) is Annotated:
            kind, meaning = get_args(kind)
        rows.append((f"`{name}`", _type(kind), meaning))
    return _table(("member", "type", "meaning"), rows)


def _type(kind: Any, *, article: bool = False) -> str:
    arguments = get_args(kind)
    if is_typeddict(kind):
        link = f"[{_name(kind)}](#{_name(kind).replace(' ', '-')})"
        return f"one object: {link}" if article else link
    if get_origin(kind) is list:
        return f"{'an ' if article else ''}array of {_type(arguments[0])}"
    if get_origin(kind) is dict:
        return "object" if arguments[1] is Any else f"object of {_type(arguments[1])}"
    if arguments:
        return " or ".join(_type(each) for each in arguments)
    return WORDS[kind]


def _name(shape: type) -> str:
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in shape.__name__[: -len("JSON")])
    return words.strip()


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(' '.join(cell.split()) for cell in row)} |" for row in lines)


def main() -> int:
    """Write the reference, or compare it with what it should be."""
    made = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(made)
        return 0
    if PAGE.exists() and PAGE.read_text() == made:
        return 0
    print("docs/cli.md is not current: run python scripts/make_cli_reference.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
