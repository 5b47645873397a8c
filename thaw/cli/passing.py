"""Options of vLLM's, which `thaw freeze --model` passes on as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from typer.core import TyperCommand

MODEL = "--model"


class PassingCommand(TyperCommand):
    """A command that, where --model is given, leaves what it does not know in `context.args`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        passed: list[str] = []
        if any(named(each) == MODEL for each in args):
            args, passed = divide(args, self._known(ctx))
        ctx.args = [*super().parse_args(ctx, args), *passed]
        return list(ctx.args)

    def _known(self, ctx: Any) -> dict[str, bool]:
        """Name the options of this command, and say whether each takes a value."""
        options: list[Any] = [
            each for each in self.get_params(ctx) if each.param_type_name == "option"
        ]
        return {name: not each.is_flag for each in options for name in each.opts}


def divide(arguments: Sequence[str], known: Mapping[str, bool]) -> tuple[list[str], list[str]]:
    """Divide arguments into those that a command knows and those that it passes on.

    What follows an option that is passed on may be its value, and is passed on with it.

    Args:
        known: names of options, and whether each takes a value.
    """
    ours: list[str] = []
    passed: list[str] = []
    left = iter(arguments)
    for each in left:
        name = named(each)
        if each == "--":
            ours += [each, *left]
        elif name in known:
            ours.append(name + each[len(name) :])
            if known[name] and "=" not in each:
                ours += islice(left, 1)
        else:
            (passed if passed or each.startswith("-") else ours).append(each)
    return ours, passed


def named(argument: str) -> str:
    """Name an option as vLLM does, which takes underscores for dashes."""
    name = argument.partition("=")[0]
    return name.replace("_", "-") if name.startswith("--") else name
