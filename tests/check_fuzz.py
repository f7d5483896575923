"""Thousands of damaged files of every kind: no traceback, signal, hang, or memory beyond a bound.

Not collected by pytest, since it takes minutes (tests/test_fuzzing.py runs a part):

    .venv/bin/python -m tests.check_fuzz --minutes 20

Each kind is used in a process of its own, which a fault may end. What is printed of a fault, its
kind and number, repeats it: --only KIND --first NUMBER --count 1.
"""

import argparse
import collections
import contextlib
import faulthandler
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from stackmff.errors import StackError
from tests.fuzzing import kinds_of, name_of, run_one

COUNTS = {"picture": 10000, "TIFF directory": 3000, "TIFF": 1000, "stack": 1000, "film": 400}
OTHERS = 400  # of each kind of state file
SLOW = {"checkpoint": 150, "export": 60}
OUTCOMES = ("same", "other", "named", "refused", "fault")
HANG = 20  # s of CPU time for one file, since others may use the cores
STALL = 10 * HANG  # s on the clock, for what waits and computes nothing
MEMORY = 2 * 2**30  # bytes of address space that one file may add to what the process began with


class Hang(BaseException):
    """One file takes longer than HANG or STALL; no library catches it as an Exception."""


def _ring(*_):
    raise Hang


def work(kind_name, seed, first, count):
    """Use `count` damaged files of a kind, and print a line on each; in a process of its own."""
    faulthandler.enable()
    signal.signal(signal.SIGALRM, _ring)
    signal.signal(signal.SIGPROF, _ring)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "made"
        folder.mkdir()
        kind = kinds_of(folder, heavy=kind_name in SLOW)[kind_name]
        place = Path(name) / "used" / "records"
        place.mkdir(parents=True)
        kind.beside(place)
        with contextlib.suppress(StackError):  # what is imported for it may take long
            file, data = next(iter(kind.files.items()))
            (place / file).write_bytes(data)
            kind.use(place / file, data)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(first, first + count):
            print(json.dumps({"begins": number}), flush=True)
            outcome, start = "", time.process_time()
            signal.setitimer(signal.ITIMER_PROF, HANG)
            signal.alarm(STALL)
            try:
                outcome = run_one(kind, place, (seed, number))
            except Hang:
                outcome = "fault: hangs"
            except BaseException:
                outcome = "fault: " + traceback.format_exc()
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.alarm(0)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if (peak - before) * 1024 > MEMORY:
                outcome, before = f"fault: {(peak - before) / 2**20:.1f} GiB of memory", peak
            seconds = time.process_time() - start
            said = {"outcome": outcome, "seconds": seconds, "file": name_of(kind, (seed, number))}
            print(json.dumps(said), flush=True)


def run_kind(name, seed, first, count, until):
    """(outcomes, faults, CPU time of the slowest file in s); outcomes count (file, outcome).

    It stops at the time `until`.
    """
    outcomes, faults, slowest, number, end = collections.Counter(), [], 0.0, first, first + count
    while number < end and time.monotonic() < until:
        words = [sys.executable, "-m", "tests.check_fuzz", "--work", "--only", name]
        words += ["--seed", str(seed), "--first", str(number), "--count", str(end - number)]
        at = None
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            for line in process.stdout:
                if not line.startswith("{"):
                    continue
                said = json.loads(line)
                if "begins" in said:
                    at = said["begins"]
                    continue
                slowest = max(slowest, said["seconds"])
                kind_of_outcome = said["outcome"].partition(":")[0]
                outcomes[said["file"], kind_of_outcome] += 1
                if kind_of_outcome == "fault":
                    faults.append((at, said["outcome"]))
                number = at + 1
                if time.monotonic() > until:
                    process.kill()
                    return outcomes, faults, slowest
        if number < end:
            if at is None:
                faults.append((number, f"fault: exit status {process.returncode} at the start"))
                break
            faults.append((at, f"fault: exit status {process.returncode}"))
            outcomes["", "fault"] += 1
            number = at + 1
    return outcomes, faults, slowest


def row(name, outcomes, end):
    """A line of the table: how many files had which outcome."""
    numbers = [sum(n for (_, own), n in outcomes.items() if own == one) for one in OUTCOMES]
    return f"| {name:14} | {sum(numbers)} | {' | '.join(map(str, numbers))} |{end}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20, help="for all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one kind")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int)
    parser.add_argument("--by_file", action="store_true", help="also a line for each whole file")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.only, args.seed, args.first, args.count)
        return 0
    until = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as folder:
        names = [args.only] if args.only else [*kinds_of(Path(folder), heavy=False), *SLOW]
    print(f"| {'kind':14} | files | {' | '.join(OUTCOMES)} | slowest, CPU s |")
    print(f"|---|{'---|' * (len(OUTCOMES) + 2)}")
    found = []
    for name in names:
        count = args.count or COUNTS.get(name, SLOW.get(name, OTHERS))
        outcomes, faults, slowest = run_kind(name, args.seed, args.first, count, until)
        print(row(name, outcomes, f" {slowest:.1f} |"), flush=True)
        found += [(name, *fault) for fault in faults]
        for file in sorted({file for file, _ in outcomes}) if args.by_file else ():
            own = {key: number for key, number in outcomes.items() if key[0] == file}
            print(row(f"- {file}", own, " |"), flush=True)
    for name, number, fault in found[:40]:
        print(f"\n{name} {number}: {fault}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
