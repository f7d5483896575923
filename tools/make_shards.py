"""Pack a data set of folders into shards, tar files in WebDataset's form, for shared storage."""

import argparse
import io
import json
import tarfile
from pathlib import Path

from tqdm import tqdm

from stackmff.errors import StackError
from stackmff.files import atomic_path, make_folder, read_bytes, remove_leftovers
from stackmff.options import number
from stackmff.processes import run_main
from stackmff.training.data_sets import find_pairs
from stackmff.training.shards import NAME, StoredFile, list_shards, list_stored

SHARD_BYTES = 256 << 20  # of a shard, where nobody says how many there shall be


def get_parser():
    """The options of tools/make_shards.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--datapath",
        type=Path,
        required=True,
        metavar="DIR",
        help="data set with dof_stack/<scene>/ and AiF/<scene>.*",
    )
    parser.add_argument(
        "--output_path", type=Path, required=True, metavar="DIR", help="folder for the shards"
    )
    parser.add_argument(
        "--shards",
        type=number(int, low=1, high=99999),
        metavar="N",
        help="how many; a multiple of the processes that will train, with train.py --own_shards "
        "(default: one for every 256 MiB)",
    )
    return parser


def entries_of(pair):
    """What a shard holds of a scene.

    Args:
        pair: (scene, frame paths, answer path), as from find_pairs.
    Returns:
        A list of (name, path or bytes); the key is the scene's name without dots, since what
        follows the first one tells the files of a scene apart.
    """
    scene, frames, answer = pair
    key = scene.replace(".", "_")
    note = json.dumps({"scene": scene, "frames": len(frames)}).encode()
    entries = [(f"{key}.json", note)]
    entries += [(f"{key}.{k:03d}{path.suffix.lower()}", path) for k, path in enumerate(frames)]
    return [*entries, (f"{key}.aif{answer.suffix.lower()}", answer)]


def is_packed(path, entries):
    """Whether a shard is there already, with these names and sizes, and younger than its files."""
    try:
        have = [(file.name, file.size) for file in list_stored(path)]
        packed = path.stat().st_mtime_ns
    except (StackError, OSError):
        return False
    wanted = []
    for name, content in entries:
        if isinstance(content, bytes):
            wanted.append((name, len(content)))
            continue
        status = content.stat()
        if status.st_mtime_ns > packed:  # a changed TIFF or BMP may have the size that it had
            return False
        wanted.append((name, status.st_size))
    return have == wanted


def write_shard(path, entries):
    """Write a shard, byte for byte the same for the same files; StackError as `atomic_path`."""
    with atomic_path(path) as temporary, tarfile.open(temporary, "w:") as tar:
        for name, content in entries:
            data = content if isinstance(content, bytes) else read_bytes(content)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def main(argv=None):
    """Pack what is not packed yet. Raises StackError where the set cannot be packed."""
    args = get_parser().parse_args(argv)
    pairs, left_over = find_pairs(args.datapath)
    for sentence in left_over:
        print(f"left out: {sentence}")
    if isinstance(pairs[0][2], StoredFile):
        raise StackError(f"{args.datapath} holds shards already: give the data set in folders")
    entries = [entries_of(pair) for pair in pairs]
    scenes = {}
    for (scene, *_), own in zip(pairs, entries):
        if (other := scenes.setdefault(own[0][0], scene)) != scene:
            raise StackError(
                f"{args.datapath} has the scenes {other} and {scene}, which differ in dots alone: "
                "rename one of them"
            )
    total = sum(p.stat().st_size for _, frames, answer in pairs for p in [*frames, answer])
    count = min(args.shards or -(-total // SHARD_BYTES), len(pairs))
    make_folder(args.output_path)
    remove_leftovers(args.output_path)
    names = [NAME.format(k, count) for k in range(count)]
    if strange := [p for p in list_shards(args.output_path) if p.name not in names]:
        raise StackError(f"{strange[0]} is of another packing: remove it or choose another folder")
    written = 0
    for k, name in enumerate(tqdm(names, unit="shard", disable=None)):
        own = [entry for scene in entries[k::count] for entry in scene]
        if not is_packed(args.output_path / name, own):
            write_shard(args.output_path / name, own)
            written += 1
    print(
        f"{args.output_path}: {len(pairs)} scenes, {total / 2**20:.0f} MiB, in {count} shards, "
        f"{written} of them new"
    )


if __name__ == "__main__":
    run_main(main)
