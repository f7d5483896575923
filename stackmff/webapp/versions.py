"""The versions of one stack on the shelf: what is shown of them, painted on them, exported."""

import contextlib
import queue
import secrets
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stackmff.errors import StackError
from stackmff.fusion.retouch import (
    Painting,
    cost_of,
    load_strokes,
    save_strokes,
    stroke_of,
    strokes_of,
)
from stackmff.images.pixel_size import pixel_size
from stackmff.images.rectangles import Box
from stackmff.webapp.exports import DEEP, OTHERS, SUFFIXES
from stackmff.webapp.jobs import ExportSpec, FuseSpec, StrokesSpec, WorkerJob
from stackmff.webapp.other_pictures import SOURCE, layer_file, stems_in, title_of
from stackmff.webapp.result_files import (
    GONE,
    ResultFiles,
    ResultRecord,
    decode_metadata,
    load_record,
)
from stackmff.webapp.results import ShownResult, waiting_notes
from stackmff.webapp.stack_frames import Shared, StackFrames
from stackmff.webapp.strokes import Painted, StrokeLog, filled_by
from stackmff.webapp.tiles import Stamps
from stackmff.webapp.uploads import safe_stem

LEAST_PAINT = 1e8  # px to compute for strokes that are sent at once, about 20 ns each
PAINT_TIMES = 25  # the same, times the pixels of the picture
MOST_SHOWN = 4  # results that are open at a time
UNREADABLE = (StackError, OSError, ValueError, KeyError, TypeError, EOFError)  # a damaged file
MOST_LABEL = 200  # characters
TEMPLATE = "{stack}_fused"  # name of an exported picture


class Version:
    """One result of a stack, which is kept until it is deleted.

    Args:
        number: of its run, from 1.
        folder: of the result, see result_files.ResultFiles.
    """

    def __init__(self, number: int, folder: Path) -> None:
        self.number, self.folder = number, folder
        self.files = ResultFiles(folder)
        self.record: ResultRecord = load_record(self.files.record)
        self.stamps = Stamps()
        self._painted: Painted | None = None
        self.broken: str | None = None  # sentence on what it lacks

    def open(self) -> ShownResult:
        """The result, opened.

        Raises:
            StackError: its files are damaged.
        """
        try:
            result = ShownResult(self.folder, stamps=self.stamps)
        except UNREADABLE as error:
            self.broken = f"version {self.number} cannot be read: {error}"
            raise StackError(self.broken) from error
        self._painted = result.painted_with
        return result

    @property
    def painted(self) -> Painted:
        """Its strokes, also while the result is not open."""
        if self._painted is None:
            self._painted = StrokeLog(self.files.strokes, self.record.names).read()
        return self._painted

    @property
    def run(self) -> str:
        """Its name in addresses."""
        return f"run-{self.number}"


class StackVersions(StackFrames):
    """The versions of a stack, besides its frames.

    Args:
        folder, shared: as of StackFrames.
    """

    def __init__(self, folder: Path, shared: Shared) -> None:
        super().__init__(folder, shared)
        self.versions: list[Version] = []
        self.draft: ShownResult | None = None
        self.fuse_job: WorkerJob[FuseSpec] | None = None
        self.open_results: OrderedDict[int, ShownResult] = OrderedDict()
        self.runs = self.drafts = 0
        # Held while strokes change, and taken before `lock`: strokes wait for the disk, and what
        # merely looks at the stack must not wait with them.
        self.painting = threading.Lock()
        self.painted_on: int | None = None  # the version whose strokes change

    def shown(self, number: int | None = None) -> ShownResult:
        """The result of a version; None: of the last one.

        Raises:
            StackError: there is none yet.
            LookupError: this one is not there.
        """
        with self.lock:
            if not self.versions and (number is None or number > self.runs or self.fuse_job):
                raise StackError("there is no result yet: fuse the frames first")
            number = self.versions[-1].number if number is None else number
            version = next((one for one in self.versions if one.number == number), None)
            if version is None:
                raise LookupError("this version was deleted")
            if number not in self.open_results:
                self.open_results[number] = version.open()
            self.open_results.move_to_end(number)
            for other in list(self.open_results)[:-MOST_SHOWN]:
                if other != self.painted_on:  # that would be opened a second time
                    del self.open_results[other]
            return self.open_results[number]

    def of_run(self, run: str) -> ShownResult:
        """The result of a name in addresses, "run-3" or "draft-3"; LookupError if it is gone."""
        kind, _, number = run.partition("-")
        if kind == "draft" and run == self._draft_run():
            if self.draft is not None:
                return self.draft
            if self.versions:  # a page that does not know yet asks for the same place of it
                return self.shown()
        if kind != "run" or not number.isdecimal():
            raise LookupError("there is no such result")
        try:
            return self.shown(int(number))
        except StackError as error:
            raise LookupError(str(error)) from error

    def _draft_run(self) -> str:
        return f"draft-{self.drafts}"

    def delete_version(self, number: int) -> None:
        """Delete a version and its strokes; LookupError where there is none."""
        with self.painting, self.lock:
            self.shown(number)
            version = next(one for one in self.versions if one.number == number)
            # First of all, so that a kill leaves a version or none.
            version.files.record.unlink(missing_ok=True)
            self.versions.remove(version)
            self.open_results.pop(number, None)
            gone = self._set_aside([version.folder.parent, *self._unused_aligned()])
            self.changed()
        remove(gone)

    def _unused_aligned(self) -> list[Path]:
        """Folders of frames in register that no version shows; none if a version cannot be read."""
        runs = {path.parent.parent for path in self.folder.glob("run-*/full/result.json")}
        if runs - {version.folder.parent for version in self.versions}:
            return []
        used = {version.record.aligned for version in self.versions}
        return [path for path in self.folder.glob("aligned-*") if path.name not in used]

    def _set_aside(self, folders: Iterable[Path]) -> list[Path]:
        """Give folders other names, so that theirs are free, and return those.

        To remove large files takes time, during which no lock should be held.
        """
        gone = []
        for folder in folders:
            with contextlib.suppress(OSError):  # it is removed under its own name
                folder = folder.rename(self.folder / f"{GONE}{secrets.token_hex(4)}")
            gone.append(folder)
        return gone

    @contextlib.contextmanager
    def _to_paint(self, number: int) -> Iterator[ShownResult]:
        """The result of a version whose strokes are about to change, by nobody else meanwhile."""
        with self.painting:
            with self.lock:
                result, self.painted_on = self.shown(number), number
            try:
                yield result
            finally:
                self.painted_on = None

    def paint(self, number: int, record: Mapping[str, Any]) -> list[Box]:
        """Paint a stroke, see retouch.stroke_of; return the boxes that have changed."""
        with self._to_paint(number) as result:
            try:
                stroke = stroke_of(record, result.names)
            except (ValueError, KeyError, TypeError) as error:
                raise StackError(f"this stroke cannot be painted: {error}") from error
            return self._paint(result, [stroke])

    def replay(self, number: int, record: Mapping[str, Any]) -> list[Box]:
        """Paint the strokes of a file, see retouch.save_strokes, in addition to those there are."""
        with self._to_paint(number) as result:
            name = str(record.get("name", "this file"))
            strokes = strokes_of(record, name, result.names, result.size)
            return self._paint(result, strokes)

    def replay_archive(self, number: int, archive: Path) -> list[Box]:
        """Paint the strokes of an archive, with the pictures that they take; it is removed.

        Raises:
            StackError: it is not one, or is of other frames.
            LookupError: there is no such version.
        """
        strokes = archive.with_suffix(".json")
        ended: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        try:
            spec = StrokesSpec(str(archive), str(self.shown(number).folder))
            job = WorkerJob(spec, lambda told: None, ended.put)
            self.shared.export_queue.add(job, self.folder.parent)
            if (sentence := ended.get()) is not None:
                raise StackError(sentence or "cancelled")
            with self._to_paint(number) as result:
                return self._paint(result, load_strokes(strokes, result.names, result.size))
        finally:
            archive.unlink(missing_ok=True)
            strokes.unlink(missing_ok=True)

    def _paint(self, result: ShownResult, strokes: Sequence[Painting]) -> list[Box]:
        most = max(LEAST_PAINT, PAINT_TIMES * result.height * result.width)
        if sum(cost_of(stroke, result.size) for stroke in strokes) > most:
            raise StackError(
                "these strokes would take minutes to paint: paint shorter or thinner ones"
            )
        for name in {stroke.picture for stroke in strokes if stroke.picture is not None}:
            self._bring(result, name)
        return [result.paint(stroke) for stroke in strokes]

    def _bring(self, result: ShownResult, source: str) -> None:
        """Put a picture that a stroke takes into the folder of a result, where it stays.

        Raises:
            StackError: there is no such picture, or it has another size.
        """
        if source in result.sources:
            return
        match = SOURCE.fullmatch(source)
        files = {one.number: one.files for one in self.versions}.get(int(match[1]) if match else -1)
        path = None
        if match is not None and files is not None:
            path = layer_file(files, match[2]) if match[2] else files.fused
        if path is None:
            raise StackError(f"this stack has no {title_of(source)}: choose another source")
        if np.load(path, mmap_mode="r").shape != result.fused.shape:
            raise StackError(f"{title_of(source)} has another size: choose another source")
        result.sources.bring(source, path)

    def painted_now(self, number: int) -> dict[str, Any]:
        """As of `painted_state`, of the version of a number; LookupError where there is none."""
        with self.lock:
            self.shown(number)
            return self.painted_state(next(one for one in self.versions if one.number == number))

    def undo(self, number: int, count: int) -> list[Box]:
        """Undo the last strokes; return the boxes that have changed."""
        with self._to_paint(number) as result:
            return result.undo(count)

    def redo(self, number: int, count: int = 1) -> list[Box]:
        """Redo the strokes that were undone last; return the boxes that have changed."""
        with self._to_paint(number) as result:
            return result.redo(count)

    def export_spec(self, number: int, wanted: Mapping[str, Any], folder: Path) -> ExportSpec:
        """What writes an exported file into a folder.

        Args:
            number: of the version.
            wanted: {"what", "format", "bits", "quality", "srgb", "area", "name", "label",
                "pixel_size"}, from JSON; all may be missing. In the name and the label of a
                picture {stack} and {version} are replaced.
            folder: for the file; the strokes are written beside it.
        Raises:
            StackError: something that is wanted does not exist.
        """
        with self.lock:
            result = self.shown(number)
            painted = list(result.strokes)
            what, kind = wanted.get("what", "picture"), wanted.get("format", "png")
            if what != "picture" and what not in OTHERS:
                raise StackError(f"this result has no {what}: choose something else")
            if kind not in SUFFIXES:
                raise StackError("this format is not supported: choose PNG, TIFF, JPEG or WebP")
            template = str(wanted.get("name") or TEMPLATE)
            if what != "picture":
                template = f"{{stack}}_{what.partition('-')[0]}"
            name = self._named(template, number)
            suffix = SUFFIXES[kind] if what == "picture" else OTHERS[what]
            if what == "strokes" and any(stroke.picture for stroke in painted):
                suffix = ".zip"  # with the pictures that they take
            quality = wanted.get("quality")
            if quality is not None and not (type(quality) is int and 1 <= quality <= 100):
                raise StackError(f"the quality {quality} is not a whole number from 1 to 100")
            strokes = folder / "strokes.json"
            spec = ExportSpec(
                result=str(result.folder),
                strokes=str(strokes),
                path=str(folder / f"{safe_stem(name)}{suffix}"),
                what=what,
                bits=16 if wanted.get("bits") == 16 and kind in DEEP else 8,
                quality=quality,
                srgb=wanted.get("srgb") is True,
                area=area_of(wanted.get("area"), result),
                label=self._named(str(wanted.get("label") or "")[:MOST_LABEL], number),
                pixel_size=pixel_size_of(wanted.get("pixel_size")),
            )
        save_strokes(strokes, painted, result.names, result.size)
        return spec

    def _named(self, template: str, number: int) -> str:
        """A text with the names of the stack and the version in it."""
        return template.replace("{stack}", self.name()).replace("{version}", str(number))

    def name(self) -> str:
        """The name of the stack: that of its folder or video, else of its reference frame."""
        if self.title:
            return safe_stem(self.title)
        files = {frame["file"] for frame in self.frames.values()}
        if len(files) == 1:
            return safe_stem(Path(*files).stem)
        if self.versions:
            names = self.versions[-1].record.names
            reference = len(names) // 2
            result = self.open_results.get(self.versions[-1].number)
            if result is not None and result.alignment is not None:
                reference = result.alignment.reference
            return safe_stem(Path(names[reference]).stem)
        if self.order:
            return safe_stem(Path(self.frames[self.order[len(self.order) // 2]]["name"]).stem)
        return "New stack"

    def _version_state(self, version: Version) -> dict[str, Any]:
        record, files = version.record, version.files
        aligned = self.folder / (record.aligned or files.folder) / "alignment.json"
        notes = [*record.notes, *waiting_notes(version.painted.waiting)]
        if version.broken is not None:
            return {"run": version.run, "broken": self.on_page(version.broken), "notes": []}
        return self._result_state(version.run, record, notes) | {
            "confidence": files.confidence.exists(),
            "aligned": aligned.exists(),
            "slabs": stems_in(files.slabs),
            "methods": stems_in(files.methods),
            **self.painted_state(version),
        }

    def _draft_state(self, draft: ShownResult) -> dict[str, Any]:
        return self._result_state(self._draft_run(), load_record(draft.files.record), []) | {
            "draft": True,
            "least_level": draft.least_level,
            "confidence": draft.confidence is not None,
            "aligned": False,
            "slabs": [],
            "methods": [],
            "strokes": 0,
            "undone": 0,
            "filled": [],
            "stamp": draft.stamp,
        }

    def _result_state(self, run: str, record: ResultRecord, notes: Sequence[str]) -> dict[str, Any]:
        height, width = record.whole or record.shape[1:3]
        return {
            "run": run,
            "number": int(run.partition("-")[2]),
            "draft": False,
            "least_level": 0,
            "width": width,
            "height": height,
            "names": record.names,
            "kept": record.kept,
            "notes": [self.on_page(note) for note in notes],
            "near_end": self.on_page(record.near_end.removeprefix("3D view: ")),
            "seconds": round(record.seconds, 1),
            "made": record.made,
            "options": record.options,
            "bits": 16 if record.dtype == "uint16" else 8,
            "profile": record.metadata.get("profile") is not None,
            "pixel_size": pixel_size(decode_metadata(record.metadata)),
            "area": record.area,
            "regions": record.regions,
        }

    def painted_state(self, version: Version) -> dict[str, Any]:
        """What strokes change in the state of a version."""
        painted, record = version.painted, version.record
        return {
            "strokes": len(painted.strokes),
            "undone": len(painted.undone),
            "filled": filled_by(record.regions, painted.strokes, record.names),
            "stamp": version.stamps.now,
        }


def remove(folders: Iterable[Path]) -> None:
    """Remove folders with what is in them."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def pixel_size_of(value: Any) -> float | None:
    """The size of a pixel that an export wants a scale bar for, micrometres, from JSON.

    Raises:
        StackError: it is not a size.
    """
    if value is None:
        return None
    if type(value) not in (int, float) or not 1e-6 < value < 1e9:
        raise StackError("the size of a pixel is not a number of micrometres: enter one")
    return float(value)


def area_of(area: Any, result: ShownResult) -> Box | None:
    """The area that an export is cropped to.

    Args:
        area: from JSON: None, "common" for the area that all frames cover, or
            [top, bottom, left, right], px.
        result: that is exported.
    Raises:
        StackError: it is none of these, or leads out of the picture.
    """
    if area is None or (area == "common" and result.area is None):
        return None
    area = result.area if area == "common" else area
    whole = isinstance(area, list | tuple) and len(area) == 4
    if not (whole and all(type(side) is int for side in area)):
        raise StackError("the area to crop to is not [top, bottom, left, right]: reload the page")
    box = Box(*area)
    if not box.area or box.common(Box.whole(result.size)) != box:
        raise StackError(
            f"the area to crop to leads out of the picture of {result.width}x{result.height}: "
            "choose one inside"
        )
    return box
