"""Options as typed data: frozen dataclasses from which command lines and forms are generated.

Each wing declares its options once, as a subclass of `Options` whose fields come from `option`:

    @dataclass(frozen=True)
    class BlurOptions(Options):
        radius: float = option(2.0, help="of the blur", low=0, metavar="PX")

`add_options` gives a parser an argument for each field, `build` makes the object from named values
and checks them, `parse` does both for a command, and `form` describes the fields to a page in the
browser. A field whose type is such a class itself is a group of options.
"""

import argparse
import dataclasses
import difflib
import math
import numbers
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from stackmff.errors import StackError

_Number = TypeVar("_Number", int, float)
_KIND_NAMES = {int: "a whole number", float: "a number", bool: "true or false"}
_KIND_NAMES |= {str: "a text", Path: "a path"}


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to a help text that does not give it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        default = action.default
        tells_nothing = default is None or isinstance(default, bool) or default in ("", [], ())
        plain = "(default" in text or tells_nothing or action.required
        return text if plain else super()._get_help_string(action)


@dataclass(frozen=True)
class Info:
    """What is known of an option besides its type and its default.

    Attributes:
        help: one sentence, for --help and the page.
        low, high: bounds of a number, inclusive; above, below: exclusive.
        choices: the values it can take, where its type is no Literal.
        metavar: what stands for the value in --help.
        flag: the name on the command line where it is not the field's: "no_align" for `align=True`.
        aliases: former names, which are still accepted and not shown.
        nargs: as in argparse, for a tuple; default "+", or none where `convert` makes it of a word.
        const: the value where the option is given without one.
        negatable: whether a switch has a --no-NAME, too, as where its default is not always one.
        convert: from a word to a value, in place of the type; raises ArgumentTypeError.
        exclusive: options of one such name exclude each other.
        label: a few words for a form; None: forms do not show the option.
        choice_labels: words for the choices in a form, also for None where that is one.
        positional: the value may also stand without the name of the option.
    """

    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] | None = None
    metavar: str | tuple[str, ...] | None = None
    flag: str | None = None
    aliases: tuple[str, ...] = ()
    nargs: str | int | None = None
    const: Any = None
    negatable: bool = False
    convert: Callable[[str], Any] | None = None
    exclusive: str | None = None
    label: str | None = None
    choice_labels: Mapping[Any, str] | None = None
    positional: bool = False


def option(default: Any = dataclasses.MISSING, *, help: str, **info: Any) -> Any:
    """A field of an options class; without a default it must be given.

    Args:
        default: of the field.
        help, info: see `Info`.
    """
    return dataclasses.field(default=default, metadata={"option": Info(help, **info)})


class Options:
    """Base of the options classes: whoever makes one, its values are in range and go together."""

    def __post_init__(self) -> None:
        for field, kind in fields_of(type(self)):
            value = getattr(self, field.name)
            if not is_group(kind) and (wrong := _what_is_wrong(field, kind, value)):
                raise StackError(wrong)
        if sentence := self.contradiction():
            raise StackError(sentence)

    def contradiction(self) -> str | None:
        """What contradicts what, as one sentence with its mend; None: nothing."""
        return None


_Options = TypeVar("_Options", bound=Options)


def fields_of(cls: type) -> list[tuple["dataclasses.Field[Any]", Any]]:
    """The fields of an options class, each with its type."""
    hints = typing.get_type_hints(cls)
    return [(field, hints[field.name]) for field in dataclasses.fields(cls)]


def is_group(kind: Any) -> bool:
    """Whether the type of a field is an options class, so that the field is a group of options."""
    return isinstance(kind, type) and issubclass(kind, Options)


def names_of(cls: type) -> list[str]:
    """The names of all options of a class, those of its groups included."""
    out: list[str] = []
    for field, kind in fields_of(cls):
        out += names_of(kind) if is_group(kind) else [field.name]
    return out


def flag_of(field: "dataclasses.Field[Any]") -> str:
    """The option of a field on the command line."""
    return f"--{field.metadata['option'].flag or field.name}"


def add_options(
    parser: Any,
    cls: type,
    title: str | None = None,
    leave_out: Iterable[str] = (),
    details: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({}),
) -> None:
    """Give a parser the options of a class, in a group of their own where there is a title.

    Args:
        parser: ArgumentParser, or a group of one.
        cls: an options class; groups in it take their class's `title` where it has one.
        title: of the group.
        leave_out: names of fields that this command does not have; `build` takes their defaults.
        details: {name of a field: {attribute of `Info`: value}}, for what this command alone knows,
            such as the choices of a table that is handed in.
    """
    left_out = set(leave_out)
    place = parser.add_argument_group(title) if title else parser
    exclusive: dict[str, Any] = {}
    for field, kind in fields_of(cls):
        if field.name in left_out:
            continue
        if is_group(kind):
            own_title = getattr(kind, "title", None)
            # argparse has no groups in groups; a class without a title stands in its parent's.
            add_options(parser if own_title else place, kind, own_title, left_out, details)
            continue
        info: Info = dataclasses.replace(field.metadata["option"], **details.get(field.name, {}))
        target = place
        if info.exclusive:
            if info.exclusive not in exclusive:
                exclusive[info.exclusive] = place.add_mutually_exclusive_group()
            target = exclusive[info.exclusive]
        _add_option(target, field, kind, info)


def _add_option(place: Any, field: "dataclasses.Field[Any]", kind: Any, info: Info) -> None:
    """Give a parser, or a group of one, the argument of a field, and its hidden former names."""
    required = field.default is dataclasses.MISSING
    words: dict[str, Any] = {"dest": field.name, "help": info.help}
    if kind is bool and info.negatable:
        words |= {"action": argparse.BooleanOptionalAction, "default": field.default}
    elif kind is bool:
        words |= {"action": "store_false" if field.default else "store_true"}
    else:
        base, many = base_type(kind)
        choices = choices_of(info, base)
        words |= {"type": _converter(info, base), "metavar": info.metavar}
        words |= {"choices": choices, "required": required}
        words["default"] = None if required else field.default
        if many and (info.convert is None or info.nargs is not None):
            words["nargs"] = info.nargs or "+"
        if info.const is not None:
            words |= {"nargs": "?", "const": info.const}
        if choices is not None and info.metavar is None:
            del words["metavar"]
    if info.positional:
        place = place.add_mutually_exclusive_group(required=required)
        words |= {"required": False, "default": argparse.SUPPRESS if required else field.default}
        convert = words["type"]
        place.add_argument(
            field.name,
            nargs="?",
            default=argparse.SUPPRESS,
            # argparse converts defaults that are words, this one too.
            type=lambda word: word if word is argparse.SUPPRESS else convert(word),
            metavar=info.metavar,
            help=f"the same as {flag_of(field)}",
        )
    elif required and info.aliases:  # any of its names will do
        place = place.add_mutually_exclusive_group(required=True)
        words["required"] = False
    place.add_argument(flag_of(field), **words)
    for alias in info.aliases:
        hidden = {**words, "help": argparse.SUPPRESS, "default": argparse.SUPPRESS}
        hidden.pop("required", None)
        place.add_argument(f"--{alias}", **hidden)


def _wrong_type(base: Any, many: bool, value: Any) -> str | None:
    """What is wrong with the type of a value, as "VALUE is not ..."; None: nothing."""
    if many and not isinstance(value, tuple):
        return f"{value!r} is not a sequence"
    accepted = {int: numbers.Integral, float: numbers.Real, bool: bool, str: str, Path: Path}
    if typing.get_origin(base) is Literal or base not in accepted:
        return None  # choices are checked by themselves
    for one in value if many else [value]:
        # To Python, bool is a kind of int.
        if not isinstance(one, accepted[base]) or (isinstance(one, bool) and base is not bool):
            return f"{one!r} is not {_KIND_NAMES[base]}"
    return None


def is_optional(kind: Any) -> bool:
    """Whether None is a value of an annotation."""
    return type(None) in typing.get_args(kind)


def base_type(kind: Any) -> tuple[Any, bool]:
    """(type of one value, whether there are several) of the annotation of a field."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    if typing.get_origin(kind) is tuple:
        return typing.get_args(kind)[0], True
    return kind, False


def choices_of(info: Info, base: Any) -> tuple[Any, ...] | None:
    """The values that an option can take; None: any of its type."""
    return typing.get_args(base) if typing.get_origin(base) is Literal else info.choices


def _converter(info: Info, base: Any) -> Callable[[str], Any]:
    """What makes a value of a word of the command line."""
    if info.convert is not None:
        return info.convert
    if typing.get_origin(base) is Literal:
        return type(typing.get_args(base)[0])
    if base in (int, float):
        return number(base, info.low, info.high, info.above, info.below)
    convert: Callable[[str], Any] = base
    return convert


def _what_is_wrong(field: "dataclasses.Field[Any]", kind: Any, value: Any) -> str | None:
    """What is wrong with the value of an option, as one sentence; None: nothing."""
    if value is None:
        return None if is_optional(kind) else f"{flag_of(field)} must have a value"
    info: Info = field.metadata["option"]
    base, many = base_type(kind)
    if info.convert is None and (wrong := _wrong_type(base, many, value)):
        return f"{flag_of(field)} {wrong}"
    choices = choices_of(info, base)
    for one in value if many else [value]:
        if choices is not None and one not in choices:
            return f"{flag_of(field)} {one!r} is unknown: use one of {', '.join(map(str, choices))}"
        if base in (int, float) and (beyond := out_of_range(one, info)):
            return f"{flag_of(field)} {beyond}"
    return None


def out_of_range(value: float, info: Info, said: str = "") -> str | None:
    """Which bound a number breaks, as "VALUE must be ..."; None: none.

    Args:
        value: the number; said: the word that it was given as, if any.
        info: its bounds.
    """
    said = said or str(value)
    if not math.isfinite(value):
        return f"{said} must be finite"
    low, high, above, below = info.low, info.high, info.above, info.below
    for holds, bound in (
        (low is None or value >= low, f"at least {low}"),
        (high is None or value <= high, f"at most {high}"),
        (above is None or value > above, f"above {above}"),
        (below is None or value < below, f"below {below}"),
    ):
        if not holds:
            return f"{said} must be {bound}"
    return None


def number(
    kind: Callable[[str], _Number],
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Callable[[str], _Number]:
    """An argparse type: a finite number within low..high, or beyond the bounds above and below.

    Args:
        kind: int or float.
        low, high, above, below: bounds; None for none.
    Returns:
        A function from a word to a number; it raises argparse.ArgumentTypeError.
    """
    info = Info("", low, high, above, below)

    def parse_number(word: str) -> _Number:
        try:
            value = kind(word)
        except ValueError:
            name = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{word!r} is not {name}") from None
        if beyond := out_of_range(value, info, word):
            raise argparse.ArgumentTypeError(beyond)
        return value

    return parse_number


def check_names(cls: type, names: Iterable[str]) -> None:
    """Raise StackError for the first name that is no option of a class or of a group in it."""
    known = names_of(cls)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            mend = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise StackError(f"{name} is not an option: {mend}")


def build(cls: type[_Options], values: Mapping[str, Any], strict: bool = False) -> _Options:
    """An options object from named values; what is not named has its default.

    Args:
        cls: the options class.
        values: {name of a field, of this class or of a group in it: value}.
        strict: a name that is no option is an error; else it is passed over.
    Raises:
        StackError: a value is out of its range, two contradict each other, or a name is unknown.
    """
    if strict:
        check_names(cls, values)
    given: dict[str, Any] = {}
    for field, kind in fields_of(cls):
        if is_group(kind):
            given[field.name] = build(kind, values)
        elif field.name in values:
            given[field.name] = _as_typed(kind, values[field.name])
    return cls(**given)


def _as_typed(kind: Any, value: Any) -> Any:
    """Lists of JSON or of a caller as tuples, and words as paths where a path is expected."""
    if isinstance(value, list | tuple):
        return tuple(_as_typed(base_type(kind)[0], one) for one in value)
    return Path(value) if base_type(kind)[0] is Path and isinstance(value, str) else value


def values_of(options: Options) -> dict[str, Any]:
    """{name of an option: its value}, those of groups included, as plain values for a record.

    Paths are words and tuples are lists, of which `build` makes the same options again.
    """
    out: dict[str, Any] = {}
    for field, _ in fields_of(type(options)):
        value = getattr(options, field.name)
        out |= values_of(value) if isinstance(value, Options) else {field.name: plain(value)}
    return out


def plain(value: Any) -> Any:
    """The value of an option as JSON and checkpoints hold it."""
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def defaults_of(cls: type) -> dict[str, Any]:
    """{name of an option: its default}, as of `values_of`; without those that must be given."""
    out: dict[str, Any] = {}
    for field, kind in fields_of(cls):
        if is_group(kind):
            out |= defaults_of(kind)
        elif field.default is not dataclasses.MISSING:
            out[field.name] = plain(field.default)
    return out


def changed(options: _Options, **values: Any) -> _Options:
    """The same options with other values of some, in whichever group they are; see `build`."""
    return build(type(options), values_of(options) | values, strict=True)


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, *classes: type[Options]
) -> tuple[Any, ...]:
    """The objects of options classes that a command line says; exit status 2 where it is wrong.

    Args:
        parser: has the options of the classes, see `add_options`.
        argv: words; None: those of this process.
        classes: of the objects.
    """
    values = vars(parser.parse_args(argv))
    try:
        return tuple(build(cls, values) for cls in classes)
    except StackError as error:
        parser.error(str(error))


def given_values(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, cls: type
) -> dict[str, Any]:
    """The options of a class that a command line names; exit status 2 where it is wrong.

    Args:
        parser: has the options of the class, see `add_options`.
        argv: words; None: those of this process.
        cls: the options class.
    Returns:
        {name: value}; what has its default because nobody named it is left out.
    """
    known = vars(parser.parse_args(argv))  # with the defaults, which --help shows
    defaults = {name: parser.get_default(name) for name in names_of(cls) if name in known}
    absent = object()
    parser.set_defaults(**dict.fromkeys(defaults, absent))
    try:
        values = vars(parser.parse_args(argv))
    finally:
        parser.set_defaults(**defaults)
    return {name: values[name] for name in defaults if values[name] is not absent}


def as_record(options: Options) -> dict[str, Any]:
    """The values of options by their names on the command line, as plain values for JSON.

    A switch that turns something off is named like its flag: {"no_report": False}.
    """
    out: dict[str, Any] = {}
    for field, kind in fields_of(type(options)):
        value = getattr(options, field.name)
        if is_group(kind):
            out |= as_record(value)
            continue
        turns_off = kind is bool and field.default and not field.metadata["option"].negatable
        out[flag_of(field)[2:]] = not value if turns_off else plain(value)
    return out


def _without_default(text: str) -> str:
    """A help text without what it says of the default."""
    return re.sub(r"\s*\(default:.*?\)$", "", text.replace("%(default)s", "default"))


def form(cls: type) -> list[dict[str, Any]]:
    """What a form must know of each option of a class, ready for JSON.

    Returns:
        A list of {"name", "label", "kind", "default", "help", "choices", "choice_labels", "low",
        "high"}, where kind is "switch", "choice", "int", "float", "path" or "text". The choices
        include None where that is a value; choice_labels are the words for them, in their order.
        The help does not mention the default; it is empty for a switch that is on by default and
        whose help says what its flag turns off.
    """
    kinds = {int: "int", float: "float", Path: "path"}
    out = []
    for field, kind in fields_of(cls):
        if is_group(kind):
            out += form(kind)
            continue
        info: Info = field.metadata["option"]
        base, _ = base_type(kind)
        choices = choices_of(info, base)
        name = "switch" if kind is bool else "choice" if choices else kinds.get(base, "text")
        if choices and is_optional(kind):
            choices = (None, *choices)
        words = info.choice_labels or {}
        default = None if field.default is dataclasses.MISSING else field.default
        out.append(
            {
                "name": field.name,
                "label": info.label,
                "kind": name,
                "default": str(default) if isinstance(default, Path) else default,
                "help": ""
                if kind is bool and default and not info.negatable
                else _without_default(info.help),
                "choices": choices,
                "choice_labels": choices and [words.get(one, str(one)) for one in choices],
                "low": info.low,
                "high": info.high,
            }
        )
    return out
