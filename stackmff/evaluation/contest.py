"""Fuse stacks with one method after another, and measure the time and the memory of each.

Only one method runs at a time, each in a fresh process, so that the seconds and MiB are its own.
The process gets its orders as JSON on its input and answers with one line of JSON per stack; the
parent keeps the records. What is done already is not done again.
"""

import contextlib
import importlib
import json
import re
import signal
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stackmff.errors import KNOWN_FAILURES, StackError, sentence_of, what_happened
from stackmff.files import make_folder, sha256
from stackmff.fusion import methods
from stackmff.images.folders import list_frames, stack_root
from stackmff.images.formats import write_picture
from stackmff.images.stack import read_stack
from stackmff.images.stack_files import FramePath
from stackmff.own import file_of, is_own
from stackmff.processes import answer_channel, answers, child, end_with_input, how_it_ended
from stackmff.records import Record, wanted_record

MODULE = "stackmff.evaluation.contest"  # this file, which also runs as a process of its own
WARM_UP = 128  # px, side of the corner that each process fuses first

Cell = dict[str, Any]  # {"file", "width", "height", "frames", "seconds", "mib"} of one result
Todo = tuple[str, Path, Path]  # (name of the stack, its folder or file, file of the result)


@dataclass(frozen=True)
class Contestant:
    """A method that takes part.

    Attributes:
        name: in tables.
        word: as taken by methods.build_method.
        iterative: it fuses pair after pair.
        folder: of its results.
        weights: {option: SHA-256 of the file}, None where there is none.
        options: what else its results depend on, plain JSON values.
    """

    name: str
    word: str
    iterative: bool
    folder: Path
    weights: dict[str, str] | None
    options: dict[str, Any]


def make_entries(words: Sequence[str], iterative: bool, output_dir: Path) -> list[Contestant]:
    """The methods that take part, in order.

    Args:
        words: as taken by methods.method_words.
        iterative: all of them fuse pair after pair.
        output_dir: the results of each method go into a folder of its name in it.
    Raises:
        StackError: an unknown method, or two that would share a folder.
    """
    entries: list[Contestant] = []
    for word in methods.method_words(words):
        method, options = methods.parse_method(word)
        files = {key: options[key] for key in methods.WEIGHT_OPTIONS if key in options}
        if is_own(word):
            files["file"] = str(file_of(word))
        weights = {key: sha256(path) for key, path in files.items() if Path(path).is_file()}
        name = f"{word}-iterative" if iterative else word
        entry = Contestant(
            name,
            word,
            iterative,
            Path(output_dir) / re.sub(r"[^\w.=,+-]", "-", name),
            weights or None,
            {
                "method": method,
                "iterative": iterative,
                **{key: value for key, value in options.items() if key not in files},
            },
        )
        if twin := next((other for other in entries if other.folder == entry.folder), None):
            raise StackError(f"{twin.name} and {name} would share {entry.folder}: remove one")
        entries.append(entry)
    return entries


def check_place(output_dir: Path, folder: Path) -> None:
    """Raise StackError if results in `output_dir` would be taken for stacks or frames."""
    root = (stack_root(folder) or Path(folder)).resolve()
    place = Path(output_dir).resolve()
    if root in (place, *place.parents):
        raise StackError(
            f"{output_dir} is inside {root}, where the stacks are: choose another --output_dir"
        )


def run_contest(
    entries: Sequence[Contestant], stacks: Mapping[str, Path], overwrite: bool = False
) -> tuple[dict[str, dict[str, Cell]], list[str]]:
    """Fuse every stack with every method, one after the other.

    Args:
        entries: as from `make_entries`.
        stacks: {name: folder or file}.
        overwrite: also fuse what is done already.
    Returns:
        (results, failures): {name of the method: {stack: Cell}} of the methods that have all their
        results, and a sentence for each failure and for each method that is left out.
    Raises:
        StackError: a stack has too few frames, so that no method could have all its results.
    """
    frames = {name: list_frames(path) for name, path in stacks.items()}
    results: dict[str, dict[str, Cell]] = {}
    failures: list[str] = []
    with tqdm(total=len(entries) * len(stacks), unit="stack", disable=None) as bar:
        for entry in entries:
            bar.set_description(entry.name)
            done, failed = run_entry(entry, stacks, frames, overwrite, bar)
            failures += failed
            if len(done) == len(stacks):
                results[entry.name] = {stack: done[stack] for stack in stacks}
            else:
                failures.append(
                    f"{entry.name} lacks {len(stacks) - len(done)} of {len(stacks)} results and is "
                    "left out of the table"
                )
    return results, failures


def run_entry(
    entry: Contestant,
    stacks: Mapping[str, Path],
    frames: Mapping[str, Sequence[FramePath]],
    overwrite: bool,
    bar: Any,
) -> tuple[dict[str, Cell], list[str]]:
    """Fuse every stack with one method.

    Args:
        entry: the method.
        stacks: {name: folder or file}.
        frames: {name: as from list_frames}.
        overwrite: also fuse what is done already.
        bar: a tqdm bar, advanced by one for each stack.
    Returns:
        (done, failures): {stack: Cell}, and sentences.
    """
    done: dict[str, Cell] = {}
    failures: list[str] = []
    wanted: dict[str, dict[str, Any]] = {}
    todo: list[Todo] = []

    def fail(sentence: str) -> None:
        failures.append(sentence)
        tqdm.write(f"failed: {sentence}", file=sys.stderr)

    for stack, path in stacks.items():
        record, output = Record(entry.folder, stack), entry.folder / f"{stack}.png"
        try:
            wanted[stack] = wanted_record(frames[stack], entry.weights, entry.options)
            result: Any = record.read().get("result")
            known = isinstance(result, dict) and not overwrite
            if known and record.says_done(wanted[stack], [output]):
                done[stack] = {"file": output, **result}
                bar.update()
            else:
                record.remove()
                todo.append((stack, path, output))
        except KNOWN_FAILURES as error:
            fail(f"{entry.name}: {stack}: {sentence_of(error)}")
    try:
        with contextlib.closing(fuse_all(entry, todo)) as reports:
            for stack, output, report in reports:
                bar.update()
                if sentence := report.get("failure"):
                    fail(f"{entry.name}: {stack}: {sentence}")
                    continue
                Record(entry.folder, stack).write(wanted[stack], report["result"], [output])
                done[stack] = {"file": output, **report["result"]}
    except KNOWN_FAILURES as error:
        fail(f"{entry.name}: {sentence_of(error)}")
    return done, failures


def fuse_all(
    entry: Contestant, stacks: Sequence[Todo]
) -> Generator[tuple[str, Path, dict[str, Any]], None, None]:
    """Fuse stacks in a process of their own; if one kills it, the rest get another.

    Args:
        entry: the method.
        stacks: what to fuse.
    Yields:
        (stack, file of the result, {"result": dict} or {"failure": sentence}), in their order.
    Raises:
        StackError: the method cannot be built, or its folder cannot be made.
    """
    todo = list(stacks)
    if todo:
        make_folder(entry.folder)
    while todo:
        orders = {
            "methods": methods.__name__,
            "word": entry.word,
            "iterative": entry.iterative,
            "stacks": [[str(path), str(output)] for _, path, output in todo],
        }
        with child(MODULE, orders) as process:
            reports = answers(process)
            first = next(reports, None)
            if first is None:
                raise StackError(how_it_ended(process.wait()))
            if "failure" in first:
                raise StackError(first["failure"])
            for report in reports:
                stack, _, output = todo.pop(0)
                yield stack, output, report
            status = process.wait()
        if todo:
            stack, _, output = todo.pop(0)
            yield stack, output, {"failure": how_it_ended(status)}


def work() -> None:
    """Fuse the stacks that the orders on the input name, and report on the output."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no partial file is left
    channel = answer_channel()

    def report(**what: Any) -> None:
        print(json.dumps(what), file=channel, flush=True)

    orders = json.loads(sys.stdin.readline())
    end_with_input()
    try:
        build = importlib.import_module(orders["methods"]).build_method
        fuse = build(orders["word"], orders["iterative"])
    except Exception as error:
        report(failure=what_happened(error))
        return
    report(ready=True)
    warm_up(fuse, orders["stacks"][0][0])
    for path, output in orders["stacks"]:
        try:
            report(result=fuse_measured(fuse, path, output))
        except BrokenPipeError:  # the parent is gone
            return
        except Exception as error:  # a method may fail in any way; the other stacks go on
            report(failure=what_happened(error))


def warm_up(fuse: methods.Fuse, path: str) -> None:
    """Fuse a corner of two frames, so that loading on first use is not measured."""
    with contextlib.suppress(Exception):  # it is reported for the whole stack
        fuse(read_stack(list_frames(path)[:2]).frames[:, :WARM_UP, :WARM_UP].copy())


def fuse_measured(fuse: methods.Fuse, path: str, output: str) -> dict[str, Any]:
    """Read a stack, fuse it and write the result.

    Args:
        fuse: as from methods.build_method.
        path: folder of the stack, or its file.
        output: file of the fused picture.
    Returns:
        {"width", "height", "frames", "seconds", "mib"}: seconds of fusing alone; MiB, the peak of
        the process from before the frames were read until they were fused, including Python, the
        libraries, the network and the frames, but not the memory of a GPU.
    Raises:
        StackError: from reading or writing, or the method returns a picture of another kind.
    """
    paths = list_frames(path)
    reset_peak()
    stack = read_stack(paths)
    start = time.perf_counter()
    fused = fuse(stack.frames)
    seconds = time.perf_counter() - start
    mib = peak_mib()
    if fused.shape != stack.frames.shape[1:] or fused.dtype != stack.frames.dtype:
        raise StackError(
            f"it returns {fused.shape} {fused.dtype} for frames of {stack.frames.shape[1:]} "
            f"{stack.frames.dtype}: fix the method"
        )
    write_picture(output, fused, stack.metadata)
    height, width = fused.shape[:2]
    size = {"width": width, "height": height, "frames": len(paths)}
    return {**size, "seconds": round(seconds, 6), "mib": mib}


def reset_peak() -> None:
    """Reset the kernel's record of this process's peak memory; only Linux can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float | None:
    """The peak memory of this process, MiB; None where the system does not report it.

    On Linux it is VmHWM: the alternative, ru_maxrss, starts from the peak of the parent process.
    """
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        words = next(line.split() for line in lines if line.startswith("VmHWM:"))
        return round(int(words[1]) / 1024, 1)
    try:
        import resource
    except ImportError:
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


if __name__ == "__main__":
    work()
