"""What the library tells, in the words of the page.

The sentences of the library advise with options of the command line. The page has a control for
some of them, which it calls by its label; for the others it has none, and the advice is left out.
"""

import re
from functools import cache

from stackmff.fusion.options import EngineOptions, FuseOptions
from stackmff.options import fields_of, flag_of, is_group
from stackmff.webapp.form import fuse_form

# What the label of a control cannot say.
PHRASES = {
    "--crop removes them": "crop to the area all frames cover to remove them",
    "choose another --reference": "exclude this frame",
    "remove --crop, or some of the frames": "exclude some of the frames",
    "remove --prefer or use a StackMix checkpoint": 'choose "Automatic"',
}
OPTION = re.compile(r"(?<!\S)--(\w+)(?: (\w+))?")  # not in the name of a file


def on_page(sentence: str) -> str:
    """A sentence of the library without options of the command line that the page has not.

    Args:
        sentence: a note, or what an error says.
    """
    for words, others in PHRASES.items():
        sentence = sentence.replace(words, others)
    sentence = OPTION.sub(_label, sentence)
    for flag in sorted(flags_of(FuseOptions) - flags_of(EngineOptions), key=len, reverse=True):
        # "choose with --flag, or move it" has another advice, which stays.
        sentence = re.sub(rf"(?<=[:;] )[^:;,]*(?<!\S){flag}\b[^:;,]*, or ", "", sentence)
        sentence = re.sub(rf"[:;,] [^:;,]*(?<!\S){flag}\b[^:;,]*", "", sentence)
    return sentence


def _label(found: re.Match[str]) -> str:
    """The control of the page for an option and perhaps its value; else what was found."""
    labels = control_labels()
    name, value = found.groups()
    if (name, value) in labels:
        return f'"{labels[name, value]}"'
    if (name, None) not in labels:
        return found[0]
    rest = "" if value is None else f" {value}"
    return f'"{labels[name, None]}"{rest}'


@cache
def control_labels() -> dict[tuple[str, str | None], str]:
    """{(option, its value or None): the words of its control}."""
    out: dict[tuple[str, str | None], str] = {}
    for field in fuse_form():
        name, label = field["name"], field["label"]
        out[name, None] = label
        for choice, words in zip(field["choices"] or [], field["choice_labels"] or [], strict=True):
            if choice is not None:
                out[name, choice] = f"{label}: {words}"
    return out


def flags_of(cls: type) -> set[str]:
    """The options on the command line of an options class and of the groups in it."""
    out: set[str] = set()
    for field, kind in fields_of(cls):
        out |= flags_of(kind) if is_group(kind) else {flag_of(field)}
    return out
