"""What a run trains and validates on: from folders, shards or photographs to its two loaders."""

from pathlib import Path

import torch.distributed as dist

from stackmff.errors import KNOWN_FAILURES, StackError
from stackmff.images.folders import (
    ANSWER_FOLDER,
    STACK_FOLDERS,
    by_stem,
    frames_in,
    list_folders,
    list_pictures,
    stack_root,
)
from stackmff.processes import rank_and_world
from stackmff.synthesis.depth_maps import disparity_as_picture, read_depth
from stackmff.synthesis.photos import (
    limits_of,
    part_readable,
    read_fit,
    resized,
    sentence_about,
    what_is_wrong,
)
from stackmff.training.augmentation import check_crop
from stackmff.training.shards import list_shards, pairs_in_shards

REHEARSED_PHOTOS = 100  # that a dry run reads


def collect_pairs(datapaths):
    """(pairs, left_over) of all folders, as of `find_pairs`."""
    pairs, alone = [], []
    for datapath in datapaths:
        found, left_over = find_pairs(datapath)
        if len(datapaths) > 1:  # two sets may have scenes of one name
            found = [(f"{Path(datapath).name}/{name}", *rest) for name, *rest in found]
        pairs += found
        alone += left_over
    return pairs, alone


def part_by_size(store, scenes, least, why):
    """Part scenes by whether they are as large as they must be.

    Args:
        store: a PictureStore; scenes: indices into it.
        least: (height, width) px; why: what is told of a smaller one.
    Returns:
        (scenes, sentences): those that are, and a sentence for each other.
    Raises:
        StackError: there are scenes and none is.
    """
    kept, sentences = [], []
    for scene in scenes:
        height, width = store.shapes[scene] or least
        if height >= least[0] and width >= least[1]:
            kept.append(scene)
        else:
            sentences.append(f"{store.pairs[scene][2]} is {width}x{height}, {why}")
    if sentences and not kept:
        raise StackError(sentences[0])
    return kept, sentences


def tell_left_out(sentences, args):
    """Say what was left out; raises StackError under --strict."""
    for sentence in [] if rank_and_world()[0] else sentences:
        print(f"left out: {sentence}", flush=True)
    if sentences and args.strict:
        raise StackError(
            f"{len(sentences)} left out: mend or remove what is named above, or leave --strict away"
        )


def usable_photos(args, paths, maps=None):
    """Part photographs as `part_readable` does, each process its share of them.

    Args:
        args: the options, whose limits they are held to; paths: one or more files.
        maps: {photograph: its depth map} where depth is needed too.
    Returns:
        (good, sentences): as `part_readable`.
    Raises:
        StackError: none can be used.
    """

    def check(path, limits):
        if maps is None:
            return what_is_wrong(path, limits)
        return what_is_wrong_beside(maps[path], path, limits, args)

    limits = limits_of(args)
    rank, world, _ = rank_and_world()
    if not dist.is_initialized():
        return part_readable(paths, limits=limits, check=check)
    good, left_over = [], []
    if own := paths[rank::world]:
        try:
            good, left_over = part_readable(own, limits=limits, check=check)
        except StackError:  # the others' share may be better
            left_over = [check(path, limits) for path in own]
    shares = [None] * world
    dist.all_gather_object(shares, (good, left_over))
    good = {path for share, _ in shares for path in share}
    left_over = [sentence for _, sentences in shares for sentence in sentences]
    if not good:
        raise StackError(f"none of the {len(paths)} photographs can be used: {left_over[0]}")
    return [path for path in paths if path in good], left_over


def what_is_wrong_beside(depth_map, path, limits, args):
    """The sentence that says why a photograph or its depth cannot be used, None where both can."""
    try:
        picture = read_fit(path, limits)
        depth = read_depth(depth_map, picture.shape)
        shape = resized(picture, args.photo_size).shape
        disparity_as_picture(depth, args.depth_kind, depth_map, shape)
        check_crop(shape, args.image_size, path)
    except KNOWN_FAILURES as error:
        return sentence_about(path, error)
    return None


def find_pairs(datapath):
    """Find the stacks of a data set and their answers.

    Args:
        datapath: folder that holds dof_stack/<scene>/ (or "image stack", or stacks) and
            AiF/<scene>.*; the scenes' frames and the answers are pictures of any format. Or one
            that holds shards.
    Returns:
        (pairs, left_over): pairs a list of (scene, frame paths in natural order, answer path) in
        natural order of the scenes; left_over a sentence for each stack or answer that has no
        partner.
    Raises:
        StackError: a folder is missing or there twice, two answers have one name, or there is no
            pair at all.
    """
    datapath = Path(datapath)
    stacks = stack_root(datapath)
    if stacks is None and list_shards(datapath):
        pairs, left_over = pairs_in_shards(datapath)
        if not pairs:
            raise StackError(f"{datapath} holds no stack with its answer in its tar files")
        return pairs, left_over
    answers_folder = datapath / ANSWER_FOLDER
    if stacks is None or not answers_folder.is_dir():
        missing = ANSWER_FOLDER if stacks else STACK_FOLDERS[0]
        if stacks is None and datapath.is_dir() and list_pictures(datapath):
            raise StackError(
                f"{datapath} holds pictures and no stacks: make_dataset.py makes stacks of them, "
                "train.py --photos takes them as they are"
            )
        raise StackError(
            f"{datapath} has no folder {missing}: a data set is dof_stack/<scene>/ with the frames "
            "and AiF/<scene>.png with the answers, as make_dataset.py writes them"
        )
    answers = by_stem(list_pictures(answers_folder))
    pairs, left_over = [], []
    for folder in list_folders(stacks):
        frames = frames_in(folder)
        answer = answers.pop(folder.name, None)
        if answer is None:
            left_over.append(f"{folder} has no answer {answers_folder.name}/{folder.name}.*")
        elif len(frames) < 2:
            left_over.append(f"{folder} holds {len(frames)} picture(s), a stack needs two or more")
        else:
            pairs.append((folder.name, frames, answer))
    left_over += [f"{path} has no stack {stacks.name}/{stem}/" for stem, path in answers.items()]
    if not pairs:
        raise StackError(f"{datapath} holds no stack with its answer: {'; '.join(left_over[:3])}")
    return pairs, left_over
