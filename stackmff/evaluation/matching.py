"""Which fused picture is scored against which answer and which frames."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stackmff.errors import StackError
from stackmff.images.folders import find_stacks, list_answers, stack_root
from stackmff.images.groups import StackSource

MOST_TOLD = 3  # names in an error


@dataclass(frozen=True)
class Scene:
    """What a fused picture is scored against.

    Attributes:
        stack: folder of the frames, or the file that they are in; None: not known.
        answer: file; None: there is none.
    """

    stack: StackSource | None
    answer: Path | None


def named_folders(words: Sequence[str]) -> dict[str, Path]:
    """The folders of --results.

    Args:
        words: DIR or NAME=DIR each.
    Returns:
        {name: folder}; without NAME= the folder's own name.
    Raises:
        StackError: two have the same name, or a name or a folder is missing.
    """
    folders: dict[str, Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if word and (not equals or Path(word).is_dir()):
            name, folder = Path(word).resolve().name, word
        if not name or not folder:
            raise StackError(f"--results {word!r} is not a folder: give DIR or NAME=DIR")
        if name in folders:
            raise StackError(f"--results has two folders named {name}: give them as NAME=DIR")
        folders[name] = Path(folder)
    return folders


def pictures_in(folder: Path) -> dict[str, Path]:
    """{name without suffix: path} of the pictures at the top of a folder.

    Raises:
        StackError: two pictures differ only in their suffix, or there are none.
    """
    pictures: dict[str, Path] = list_answers(folder)
    if not pictures:
        raise StackError(f"{folder} holds no pictures: give the folder that contains them")
    return pictures


def find_scenes(
    stacks: Path | None, reference: Path | None, all_stacks: bool = False
) -> dict[str, Scene]:
    """The scenes to score.

    Args:
        stacks, reference: folders of the stacks and of the answers; one of them may be None.
        all_stacks: a stack without an answer is an error; False: it is ignored.
    Returns:
        {name: Scene} in natural order.
    Raises:
        StackError: a folder is empty, or an answer or its stack is missing.
    """
    answers = pictures_in(reference) if reference else {}
    if not stacks:
        return {name: Scene(None, path) for name, path in answers.items()}
    found = find_stacks(stacks)
    if not answers:
        return {name: Scene(path, None) for name, path in found.items()}
    root = stack_root(stacks) or Path(stacks)
    _check_all_in(answers, reference, found, root)
    if all_stacks:
        _check_all_in(found, root, answers, reference)
    return {name: Scene(found[name], path) for name, path in answers.items()}


def _check_all_in(
    names: Iterable[str], place: Path | None, others: Container[str], other: Path | None
) -> None:
    """Raise StackError where a name of one folder is missing in another."""
    if lost := [name for name in names if name not in others]:
        raise StackError(
            f"{', '.join(lost)} of {place} is not in {other}: every stack needs its answer"
        )


def match(results: Path, names: Iterable[str], source: Path) -> dict[str, Path]:
    """Find the result of each scene.

    Args:
        results: folder.
        names: of the scenes.
        source: folder that the names come from, for the errors.
    Returns:
        {name: file} in the order of the names.
    Raises:
        StackError: a scene has no result, or a result has no scene.
    """
    names = list(names)
    fused = pictures_in(results)
    extra = [fused[name].name for name in fused if name not in set(names)]
    if missing := [name for name in names if name not in fused]:
        more = f" and {len(extra) - MOST_TOLD} more" if len(extra) > MOST_TOLD else ""
        raise StackError(
            f"{results} has no result for {', '.join(missing)} of {source}: fuse the missing ones"
            + (f", or name {', '.join(extra[:MOST_TOLD])}{more} as the scenes are" if extra else "")
        )
    if extra:
        raise StackError(
            f"{results} holds {', '.join(extra)}, which {source} has no scene for: move it "
            "elsewhere"
        )
    return {name: fused[name] for name in names}
