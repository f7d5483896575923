"""The stacks of data sets: which folders below one hold them, and where their results go."""

from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from stackmff.errors import StackError
from stackmff.images.folders import (
    STACK_FOLDERS,
    Prefer,
    frames_in,
    list_folders,
    one_a_shot,
    stack_root,
    stacks_in,
)
from stackmff.images.groups import FrameGroup, Split, StackSource, is_card_folder, split_brackets


def find_datasets(
    base: Path,
    split: Split = "auto",
    tell: Callable[[str], None] = tqdm.write,
    prefer: Prefer | None = None,
) -> dict[str, list[StackSource]]:
    """The stacks below a folder.

    Args:
        base: a folder of stacks; or one with a folder of STACK_FOLDERS; or one with several such;
            or one with the pictures of several brackets.
        split: how pictures that lie in one folder are split into stacks, see groups.py.
        tell: called with a sentence on such a split.
        prefer: see folders.one_a_shot.
    Returns:
        {name of the data set: its stacks}, in natural order.
    Raises:
        StackError: there is no folder, it has no stacks, or only the user can choose.
    """
    name = base.resolve().name
    root = stack_root(base)
    if root is not None:
        datasets = {name: stacks_in(root)}
    else:
        if name in STACK_FOLDERS:
            name = base.resolve().parent.name
        below = [(folder, stack_root(folder)) for folder in list_folders(base)]
        datasets = {folder.name: stacks_in(root) for folder, root in below if root is not None}
        own = stacks_in(base, [folder for folder, root in below if root is None])
        if own and name in datasets:
            raise StackError(f"{base} and {base / name} would share their results: rename one")
        own = split_all(base, own, split, tell, prefer)
        if own:
            datasets = {name: own, **datasets}
    datasets = {name: stacks for name, stacks in datasets.items() if stacks}
    if not datasets:
        raise StackError(
            f"{base} holds no stacks: give the folder whose sub-folders hold the pictures, or "
            f"that of a data set with {', '.join(STACK_FOLDERS)} in it"
        )
    return datasets


def split_all(
    base: Path,
    own: list[StackSource],
    split: Split,
    tell: Callable[[str], None],
    prefer: Prefer | None = None,
) -> list[StackSource]:
    """The stacks of a folder, those split that hold several: its own pictures, cards' folders.

    Args:
        base: the folder.
        own: its stacks, as of folders.stacks_in.
        split, tell, prefer: as of `find_datasets`.
    """
    pairs = {path for one in own if isinstance(one, FrameGroup) for path in one.paths}
    loose = [path for path in frames_in(base) if path not in pairs]
    places = [one for one in own if isinstance(one, Path) and one.is_dir() and is_card_folder(one)]
    out = [one for one in own if one not in places]
    for place, pictures in [(base, loose), *((place, frames_in(place)) for place in places)]:
        is_own = place == base
        if len(pictures) < 2 or (split == "off" and not is_own) or (is_own and own):
            out += [] if is_own else [place]
            continue
        found = split_brackets(one_a_shot(pictures, prefer), split)
        if len(found.stacks) + len(found.single) == 1 and not is_own:
            out.append(place)  # it keeps its name
        else:
            out += found.stacks
            tell(f"note: {place}: {found.told()}; --split off takes all as one stack")
    return out


def result_folders(
    base: Path, datasets: dict[str, list[StackSource]], output_dir: Path | None
) -> dict[str, Path]:
    """{name of the data set: folder of its results}; StackError if they would become stacks."""
    if output_dir is None:
        targets = {name: Path("results") / name for name in datasets}
    elif len(datasets) > 1:
        targets = {name: output_dir / name for name in datasets}
    else:
        targets = dict.fromkeys(datasets, output_dir)
    searched = {base.resolve()} if stack_root(base) is None else set()
    searched |= {stacks[0].parent.resolve() for stacks in datasets.values()}
    stacks = {
        stack.resolve() for group in datasets.values() for stack in group if isinstance(stack, Path)
    }
    for target in targets.values():
        place = target.resolve()
        if {place, place.parent} & searched or {place, *place.parents} & stacks:
            raise StackError(
                f"{target} is where the stacks are and would be taken for one next time: "
                "choose another --output_dir"
            )
    return targets
