"""Pack a data set of folders into shards, tar files in WebDataset's form, for shared storage."""

import argparse
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stackmff.errors import StackError
from stackmff.files import (
    atomic_path,
    make_folder,
    parse_json,
    read_bytes,
    remove_leftovers,
    write_json,
)
from stackmff.options import Options, add_options, option, parse
from stackmff.processes import run_main
from stackmff.training.data_sets import find_pairs
from stackmff.training.shards import NAME, Pair, StoredFile, list_shards, list_stored

SHARD_BYTES = 256 << 20  # of a shard by default

Member = tuple[str, Path | bytes]  # a name in a shard, and the file or its content


@dataclass(frozen=True)
class ShardOptions(Options):
    """What tools.make_shards is told."""

    datapath: Path = option(
        help="data set with dof_stack/<scene>/ and AiF/<scene>.*", metavar="DIR"
    )
    output_dir: Path = option(help="folder for the shards", metavar="DIR", aliases=("output_path",))
    shards: int | None = option(
        None,
        help="how many; with train.py --own_shards a multiple of the number of processes that will "
        "train (default: one for every 256 MiB)",
        low=1,
        high=99999,
        metavar="N",
    )


def get_parser() -> argparse.ArgumentParser:
    """The options of tools.make_shards."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, ShardOptions)
    return parser


def members_of(pair: Pair) -> list[Member]:
    """What a shard holds of a scene.

    Args:
        pair: (scene, frame paths, answer path), as from find_pairs.
    Returns:
        A list of members. The key of a scene is its name without dots, since what follows the first
        dot distinguishes the files of a scene.
    """
    scene, frames, answer = pair
    key = scene.replace(".", "_")
    note = json.dumps({"scene": scene, "frames": len(frames)}).encode()
    named = [(f"{k:03d}", path) for k, path in enumerate(frames)] + [("aif", answer)]
    members: list[Member] = [(f"{key}.json", note)]
    for part, path in named:
        if isinstance(path, StoredFile):
            raise StackError(f"{path.shard.parent} holds shards already: give the set in folders")
        members.append((f"{key}.{part}{path.suffix.lower()}", path))
    return members


def sources_of(members: Sequence[Member]) -> list[list[Any]]:
    """Name in the shard, size and modification time of each file, as plain JSON values."""
    status = [(name, path.stat()) for name, path in members if isinstance(path, Path)]
    return [[name, one.st_size, one.st_mtime_ns] for name, one in status]


def beside(path: Path) -> Path:
    """The file that tells from what a shard was packed."""
    return path.with_name(f".{path.name}.json")


def is_packed(path: Path, members: Sequence[Member]) -> bool:
    """Whether a shard exists and was packed from these files as they are.

    A file that was replaced by one of the same size and an older date is another one, too. Shards
    of earlier versions must be newer than their files.
    """
    try:
        have = [(file.name, file.size) for file in list_stored(path)]
        packed = path.stat().st_mtime_ns
        sources = sources_of(members)
    except (StackError, OSError):
        return False
    sizes = {name: size for name, size, _ in sources}
    wanted = [(n, len(c) if isinstance(c, bytes) else sizes[n]) for n, c in members]
    try:
        known = parse_json(beside(path).read_bytes())
    except (OSError, ValueError):
        return have == wanted and all(changed <= packed for *_, changed in sources)
    return have == wanted and known == sources


def write_shard(path: Path, members: Sequence[Member]) -> None:
    """Write a shard, byte for byte the same for the same files; errors as of `atomic_path`."""
    sources = sources_of(members)
    beside(path).unlink(missing_ok=True)
    with atomic_path(path) as temporary, tarfile.open(temporary, "w:") as tar:
        for name, content in members:
            data = content if isinstance(content, bytes) else read_bytes(content)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    write_json(beside(path), sources)


def main(argv: Sequence[str] | None = None) -> None:
    """Pack what is not packed yet; raises StackError if the set cannot be packed."""
    (options,) = parse(get_parser(), argv, ShardOptions)
    pairs, left_over = find_pairs(options.datapath)
    for sentence in left_over:
        print(f"left out: {sentence}")
    members = [members_of(pair) for pair in pairs]
    scenes: dict[str, str] = {}
    for (scene, *_), own in zip(pairs, members):
        if (other := scenes.setdefault(own[0][0], scene)) != scene:
            raise StackError(
                f"{options.datapath} has the scenes {other} and {scene}, which differ only in "
                "dots: rename one of them"
            )
    files = [content for own in members for _, content in own if isinstance(content, Path)]
    total = sum(path.stat().st_size for path in files)
    count = min(options.shards or -(-total // SHARD_BYTES), len(pairs))
    target = options.output_dir
    make_folder(target)
    remove_leftovers(target)
    names = [NAME.format(k, count) for k in range(count)]
    if strange := [path for path in list_shards(target) if path.name not in names]:
        raise StackError(
            f"{strange[0]} belongs to another packing: remove it or choose another folder"
        )
    written = 0
    for k, name in enumerate(tqdm(names, unit="shard", disable=None)):
        own = [member for scene in members[k::count] for member in scene]
        if not is_packed(target / name, own):
            write_shard(target / name, own)
            written += 1
    print(
        f"{target}: {len(pairs)} scenes, {total / 2**20:.0f} MiB, in {count} shards, "
        f"{written} of them new"
    )


if __name__ == "__main__":
    run_main(main)
