"""Data sets in shards: plain tar files in WebDataset's form, read at any place.

The files of a scene follow one another and share a key: <key>.json with {"scene", "frames"},
<key>.000.<suffix> and so on with the frames in focus order, <key>.aif.<suffix> with the answer.
The tar files are uncompressed, so that a picture is read by its offset, in any order. A few large
files replace millions of small ones, which shared storage serves badly.
"""

import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stackmff.errors import StackError
from stackmff.files import natural_key, parse_json
from stackmff.images.formats import Decoded, decode_bytes

FRAME = re.compile(r"\d+")
NAME = "{:05d}-of-{:05d}.tar"  # of a shard of tools.make_shards
OF_PACKING = re.compile(r"(\d{5,7})-of-(\d{5,7})\.tar")
LEAST_END = 2 * tarfile.BLOCKSIZE  # bytes of zeros after the last file
MOST_END = LEAST_END + tarfile.RECORDSIZE


@dataclass(frozen=True)
class StoredFile:
    """A file inside a shard; `formats.decode` accepts it like a path.

    Args:
        shard: path of the tar file.
        name: of the file in it.
        offset, size: where its bytes are.
    """

    shard: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"

    def read(self, most: int | None = None) -> bytes:
        """Its bytes, or the first `most` of them.

        Raises:
            StackError: the shard cannot be read or is cut short.
        """
        size = self.size if most is None else min(most, self.size)
        try:
            with open(self.shard, "rb") as file:
                file.seek(self.offset)
                data = file.read(size)
        except OSError as error:
            raise StackError(f"{self.shard} cannot be read: {error.strerror or error}") from error
        if len(data) < size or not data:
            raise StackError(f"{self} is cut short: copy or pack {self.shard.name} again")
        return data

    def decode(self, orientation: int | None = None, lenient: bool = False) -> Decoded:
        """See `formats.decode`."""
        return decode_bytes(self.read(), self, orientation, lenient)


Picture = Path | StoredFile
Pair = tuple[str, Sequence[Picture], Picture]  # name of the scene, its frames, its answer


def list_shards(folder: Path) -> list[Path]:
    """The tar files at the top of a folder, in natural order."""
    found = [path for path in folder.glob("*.tar") if not path.name.startswith(".")]
    return sorted(found, key=lambda path: natural_key(path.name))


def list_stored(shard: Path) -> list[StoredFile]:
    """The files of a shard in its order; raises StackError if it is damaged."""
    try:
        with tarfile.open(shard, "r:") as tar:
            files = [
                StoredFile(shard, member.name, member.offset_data, member.size)
                for member in tar
                if member.isfile()
            ]
            end_of_files = tar.offset
        with open(shard, "rb") as file:
            file.seek(end_of_files)
            end = file.read(MOST_END + 1)
        # tarfile accepts as the end: nothing, zeros and, after the first file, anything unknown.
        if any(end) or not LEAST_END <= len(end) <= MOST_END:
            raise tarfile.ReadError(f"cut short or damaged from byte {end_of_files} on")
        return files
    except (OSError, tarfile.TarError) as error:
        raise StackError(
            f"{shard} is not a complete tar file ({error}): copy or pack it again, uncompressed"
        ) from error


def missing_shards(shards: Sequence[Path]) -> list[str]:
    """A sentence for each packing of tools.make_shards of which these paths lack shards."""
    have: dict[tuple[Path, int], set[int]] = {}
    for shard in shards:
        if match := OF_PACKING.fullmatch(shard.name):
            have.setdefault((shard.parent, int(match[2])), set()).add(int(match[1]))
    sentences = []
    for (folder, count), numbers in have.items():
        if gone := sorted(set(range(count)) - numbers):
            sentences.append(
                f"{folder} lacks {len(gone)} of {count} shards, {NAME.format(gone[0], count)} the "
                "first: copy them too"
            )
    return sentences


def read_note(note: StoredFile) -> tuple[str, int]:
    """(scene, number of frames) of a scene's JSON file; raises StackError if they are not there."""
    try:
        says = parse_json(note.read())
        return str(says["scene"]), int(says["frames"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise StackError(
            f'{note} has no "scene" and "frames": pack the shard again with '
            "`python -m tools.make_shards`"
        ) from error


def pairs_in_shards(folder: Path) -> tuple[list[Pair], list[str]]:
    """The stacks and answers in the shards of a folder, as `data_sets.find_pairs` gives them.

    Args:
        folder: holds tar files as tools.make_shards writes them.
    Returns:
        (pairs, left_over): see `find_pairs`; the files are StoredFiles. The pairs are in the order
        of the scenes' names, whatever shard they are in, so that samples are those of the folders.
    Raises:
        StackError: a shard is damaged, or a scene is there twice.
    """
    shards = list_shards(folder)
    left_over = missing_shards(shards)
    pairs: list[Pair] = []
    homes: dict[str, Path] = {}
    for shard in shards:
        scenes: dict[str, dict[str, StoredFile]] = {}
        for file in list_stored(shard):
            place, _, end = file.name.rpartition("/")
            key, _, what = end.partition(".")
            scenes.setdefault(f"{place}/{key}", {})[what.partition(".")[0]] = file
        for key, parts in scenes.items():
            answer, note = parts.get("aif"), parts.get("json")
            frames = [parts[k] for k in sorted(filter(FRAME.fullmatch, parts), key=int)]
            scene, count = read_note(note) if note else (key.strip("/"), len(frames))
            if len(frames) != count:
                raise StackError(
                    f"{shard} has {len(frames)} of the {count} frames of {scene}: copy or pack it "
                    "again"
                )
            if answer is None or len(frames) < 2:
                left_over.append(
                    f"{shard}/{key.strip('/')} has "
                    + ("no answer .aif.*" if answer is None else f"{len(frames)} frame(s)")
                )
                continue
            if scene in homes:
                raise StackError(
                    f"{shard} and {homes[scene].name} both hold {scene}: remove one of them"
                )
            homes[scene] = shard
            pairs.append((scene, frames, answer))
    return sorted(pairs, key=lambda pair: natural_key(pair[0])), left_over


def shares_of_shards(pairs: Sequence[Pair], world: int) -> list[list[int]]:
    """Which scenes each process trains on if each has its own shards.

    Args:
        pairs: of the training scenes, as from `pairs_in_shards`.
        world: processes; process r has every world-th shard, starting at r.
    Returns:
        A list of `world` lists of indices into pairs.
    Raises:
        StackError: scenes that are not in shards, or fewer shards than processes.
    """
    homes = [answer.shard for _, _, answer in pairs if isinstance(answer, StoredFile)]
    if len(homes) < len(pairs):
        raise StackError(
            "--own_shards needs data in shards: pack the folders with `python -m tools.make_shards`"
        )
    shards = sorted(set(homes), key=lambda path: natural_key(str(path)))
    if len(shards) < world:
        raise StackError(
            f"{len(shards)} shards are too few for {world} processes with --own_shards: pack more, "
            "or remove --own_shards"
        )
    owner = {shard: number % world for number, shard in enumerate(shards)}
    return [[i for i, home in enumerate(homes) if owner[home] == rank] for rank in range(world)]
