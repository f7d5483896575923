"""Steps of the browser check: each fails where one thing that users met is broken again.

A step takes a Visit of a page on which it may do as it likes, and leaves it on the start page.
"""

import time
from pathlib import Path

from tests.page import accessibility, exporting, frames, looking, table, viewing
from tests.visit import must

SHARED = "shared"  # folder that the server shares


def steps(page, folder: Path, downloads: Path, shots):
    """(name, function without arguments) of each step."""
    return {
        "many frames": lambda: frames.check_many_frames(page, folder, shots),
        "portraits": lambda: frames.check_portraits(page, folder),
        "what is dropped": lambda: frames.check_what_is_dropped(page, folder),
        "reload": lambda: frames.check_reload(page, folder),
        "decoded once": lambda: frames.check_decoded_once(page, folder),
        "server away": lambda: frames.check_server_away(page, folder),
        "leaving": lambda: frames.check_leaving(page, folder),
        "redo": lambda: frames.check_redo(page, folder),
        "deleting asks": lambda: frames.check_deleting_asks(page, folder),
        "pixels": lambda: viewing.check_pixels(page, folder, 1),
        "pixels of a dense screen": lambda: viewing.check_pixels(page, folder, 2),
        "compare": lambda: viewing.check_compare(page, folder),
        "overlays": lambda: viewing.check_overlays(page, folder, shots),
        "frames alone": lambda: looking.check_frames_alone(page, folder, shots),
        "centred": lambda: looking.check_centred(page, folder),
        "Space": lambda: looking.check_space(page, folder),
        "two versions": lambda: looking.check_two_versions(page, folder, shots),
        "hints": lambda: looking.check_hints(page, folder, shots),
        "crop": lambda: exporting.check_crop(page, folder, downloads),
        "annotations": lambda: exporting.check_annotations(page, folder, downloads, shots),
        "exports tell": lambda: exporting.check_exports_tell(page, folder, downloads),
        "fingers": lambda: viewing.check_fingers(page, folder, shots),
        "progress": lambda: viewing.check_progress(page, folder),
        "keyboard": lambda: viewing.check_keyboard(page, folder),
        "source": lambda: viewing.check_source(page, folder, shots),
        "moved": lambda: viewing.check_moved(page, folder, shots),
        "pen": lambda: viewing.check_pen(page, folder, downloads),
        "methods": lambda: viewing.check_methods(page, folder, shots),
        "other sources": lambda: viewing.check_other_sources(page, folder, downloads, shots),
        "shelf": lambda: table.check_shelf(page, folder, shots),
        "two stacks": lambda: table.check_two_stacks(page, folder),
        "cards": lambda: table.check_cards(page, folder),
        "server folders": lambda: table.check_server_folders(page, folder / SHARED, shots),
        "pages": lambda: table.check_pages(page, folder),
        "versions": lambda: table.check_versions(page, folder),
        "profiles": lambda: exporting.check_profiles(page, folder, downloads),
        "all stacks": lambda: exporting.check_all_stacks(page, folder, downloads),
        "3D model": lambda: exporting.check_model(page, folder, downloads),
        "project file": lambda: frames.check_project_file(page, folder, downloads),
        "example": lambda: table.check_example(page, shots),
        "accessible": lambda: accessibility.check_accessible(page, folder),
        "start page": lambda: table.check_start_page(page, folder),
    }


def take(page, folder, downloads, shots, chosen=None):
    """Take all steps, or those that are named."""
    for name, step in steps(page, folder, downloads, shots).items():
        if chosen and name not in chosen:
            continue
        start = time.monotonic()
        step()
        # A file that is there already is refused, which the browser logs.
        logged = [one for one in page.logged() if "/files?name=" not in one]
        must(not logged, f"the browser logs {logged}")
        print(f"{name}: right ({time.monotonic() - start:.0f} s)", flush=True)
