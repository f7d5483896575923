"""Several stacks at once: those below a folder of the server, and those in a folder of a card."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stackmff.errors import StackError
from stackmff.webapp.jobs import Message, SplitSpec, WorkerJob
from stackmff.webapp.shelf import ShelfStack
from stackmff.webapp.uploads import inside, safe_stem, stays_inside

if TYPE_CHECKING:
    from stackmff.webapp.session import Session

Group = tuple[str, list[str]]  # (name of a stack, its files)
LEAST = 4  # frames of a stack that can be split
SINGLE = "Single pictures"


class Finder:
    """Finds stacks for a session; a process looks at the pictures.

    Args:
        session: whose shelf they are put on.
    """

    def __init__(self, session: "Session") -> None:
        self.session = session
        self.jobs: set[WorkerJob[SplitSpec]] = set()
        self.waiting: set[int] = set()  # numbers of stacks that are split once they are read
        self.told: list[str] = []  # sentences

    @property
    def busy(self) -> bool:
        """Whether stacks are looked for."""
        return bool(self.jobs or self.waiting)

    def find_below(self, word: str) -> None:
        """Begin to open every stack in a folder below the root.

        Raises:
            StackError: as uploads.inside.
        """
        root = self.session.shared.root
        folder = inside(root, word)

        def found(groups: Sequence[Group], why: str) -> None:
            for name, files in groups:
                if all(stays_inside(root, Path(file)) for file in files):
                    self._add(name).open(map(Path, files), safe_stem(name))
                else:
                    self.told.append(
                        f"{name} has links that lead out of the shared folder, skipped"
                    )

        self._begin(str(folder), [], found)

    def split(self, stack: ShelfStack) -> None:
        """Begin to split a stack into those that its frames are, once they are read.

        Raises:
            StackError: it has been fused, or is being fused.
        """
        if stack.versions or stack.fuse_job is not None:
            raise StackError("this stack was fused as one: delete its versions before it is split")
        self.told = []
        self.waiting.add(stack.number)
        stack.when_read(lambda: self._split(stack))

    def _split(self, stack: ShelfStack) -> None:
        """Begin to split a stack whose frames have all been read."""
        self.waiting.discard(stack.number)
        with stack.lock:
            keys = [key for key in stack.order if stack.frames[key]["number"] is None]
            of_file = {stack.frames[key]["file"]: key for key in keys}
        if len(of_file) < LEAST:
            return

        def found(groups: Sequence[Group], why: str) -> None:
            if len(groups) < 2:
                self.told.append(f"{stack.name()} looks like one stack, and was not split")
                return
            with stack.lock:
                for name, files in groups[1:]:
                    keys = [of_file[file] for file in files if of_file[file] in stack.frames]
                    stack.give(keys, self._add(name))
                stack.title = safe_stem(groups[0][0])
                stack.changed()
            self.told.append(f"Split into {len(groups)} stacks by {why}")

        self._begin(None, list(of_file), found)

    def _add(self, name: str) -> ShelfStack:
        """A new stack on the shelf."""
        return self.session.add_stack(safe_stem(name))

    def _begin(
        self, folder: str | None, files: list[str], found: Callable[[Sequence[Group], str], None]
    ) -> None:
        """Begin to look for stacks.

        Args:
            folder: that is searched; None: the files are split.
            files: pictures of one folder, in their order.
            found: called with the stacks, and by what the files were split.
        """
        groups: list[Group] = []
        why = ["likeness"]

        def on_message(message: Message) -> None:
            if "stack" in message:
                groups.append((message["stack"], message["files"]))
            elif message.get("single"):
                groups.append((SINGLE, message["single"]))
            why[0] = message.get("why", why[0])

        def on_end(sentence: str | None) -> None:
            try:
                if sentence is None:
                    found(groups, why[0])
                elif sentence:
                    self.told.append(self.session.on_page(sentence))
            except (StackError, OSError, KeyError) as error:  # the stack was deleted meanwhile
                self.told.append(str(error))
            finally:
                self.jobs.discard(job)

        self.told = []
        pixels = self.session.shared.limits.frame_pixels
        job = WorkerJob(SplitSpec(folder, files, pixels), on_message, on_end)
        self.jobs.add(job)
        self.session.shared.examine_queue.add(job, self.session.folder)

    def cancel(self) -> None:
        """Cancel all work; it has ended on return."""
        for job in list(self.jobs):
            self.session.shared.examine_queue.cancel(job)
