"""display/report.py: one page from the cards of stacks, whole in itself, whatever the names."""

import base64
import json
import re

import cv2
import numpy as np
import pytest
from drawn import draw_stack, texture
from html_files import HtmlFile

from stackmff.display import report
from stackmff.display.previews import FrameInfo
from stackmff.errors import StackError
from stackmff.fusion.blending import Fused

HOSTILE = "</title><script>alert('x')</script>\"&amp;"
RESULT = {"seconds": 1.26, "network_seconds": 0.84, "width": 0, "note": None}


PICTURE = cv2.GaussianBlur(texture(48, 64, 0), (0, 0), 1)  # what WebP keeps well


def card_of(name="bee", file=None, notes=(), **info):
    """The card of a drawn stack of four frames, of which the first is the sharpest."""
    picture = 255 - PICTURE
    frames = np.stack([cv2.GaussianBlur(PICTURE, (0, 0), sigma) for sigma in (0.5, 1, 2, 3)])
    focus_map = np.zeros((48, 64), np.uint16)
    fused = Fused(picture, focus_map, np.full((48, 64), 255, np.uint8))
    result = RESULT | {"notes": list(notes)}
    return report.make_card(name, frames, fused, result, file, FrameInfo(**info))


def written(folder, *cards):
    """The page of the cards, as text, and read."""
    files = [folder / "cards" / f"{k}.json" for k in range(len(cards))]
    for file, card in zip(files, cards):
        report.write_card(file, card)
    report.write_report(folder / "report.html", "A & B", files)
    return (folder / "report.html").read_text(), HtmlFile(folder / "report.html")


def decoded(picture):
    """(h, w, 3) uint8 RGB of a card's picture."""
    address, width, height = picture
    data = base64.b64decode(address.removeprefix("data:image/webp;base64,"))
    shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert shown.shape == (height, width, 3)
    return shown.astype(int)


def test_a_card_comes_back_from_disk_as_it_was(tmp_path):
    card = card_of(notes=["frame 3 is left out"], file="sub/bee.png", names=list("abcd"))
    report.write_card(tmp_path / "bee.json", card)
    assert report.read_card(tmp_path / "bee.json") == card
    assert (card.width, card.height, card.frames, card.seconds) == (64, 48, 4, 1.26)


def test_a_card_shows_the_sharpest_frame_and_the_fused_picture():
    card = card_of(names=["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    assert card.before == "sharpest frame: a.jpg"
    assert np.abs(decoded(card.pictures["after"]) - (255 - PICTURE)).mean() < 6
    assert np.abs(decoded(card.pictures["before"]) - PICTURE).mean() < 8
    assert decoded(card.pictures["focus"])[:40, :, 0].max() < 100  # all of the first frame's blue
    assert card_of(kept=[1, 2]).before == "sharpest frame: 2"


def test_without_a_focus_map_there_is_none(tmp_path):
    picture = texture(48, 64, 0)
    frames = np.stack(draw_stack(picture, 3))
    card = report.make_card("bee", frames, Fused(picture, None, None), RESULT)
    assert set(card.pictures) == {"before", "after"}
    assert len(written(tmp_path, card)[1].images) == 2


def test_large_pictures_are_shown_small():
    picture = np.zeros((1000, 2000, 1), np.uint16)
    maps = np.zeros((1000, 2000), np.uint16), np.zeros((1000, 2000), np.uint8)
    card = report.make_card("bee", np.stack([picture] * 2), Fused(picture, *maps), RESULT)
    assert card.pictures["before"][1:] == [report.PAIR_SIDE, report.PAIR_SIDE // 2]
    assert card.pictures["focus"][1] == report.MAP_SIDE
    assert (card.width, card.height) == (2000, 1000)


def test_the_page_is_whole_in_itself(tmp_path):
    text, page = written(tmp_path, card_of("one", file="a b#c.png"), card_of("two"))
    assert len(page.images) == 2 * 3
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.images)
    assert all(image["alt"] and image["loading"] == "lazy" for image in page.images)
    assert page.links == ["#s0", "#s1", "a%20b%23c.png"]
    assert {"s0", "s1"} <= set(page.ids)
    rest = re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]*", "", text)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<link", rest)
    assert text.count('type="range"') == 2
    assert "2 stacks fused from 8 frames in 2.5 s, 0 failed." in page.text
    assert "Failed" not in page.text


def test_failures_are_named_before_all_else(tmp_path):
    failed = report.Card("broken", failure="03.jpg is cut short: copy it again")
    text, page = written(tmp_path, card_of("fine"), failed)
    assert "1 stack fused from 4 frames in 1.3 s, 1 failed." in page.text
    assert text.index("03.jpg is cut short") < text.index("<table")
    assert "broken" not in text[text.index("<table") :]


def test_with_failures_only_there_is_no_table(tmp_path):
    text, page = written(tmp_path, report.Card("broken", failure="no"))
    assert "<table" not in text and not page.images
    assert "0 stacks fused from 0 frames in 0.0 s, 1 failed." in page.text


def test_hostile_names_stay_text(tmp_path):
    card = card_of(HOSTILE, notes=[HOSTILE], file=f"{HOSTILE}.png", names=[HOSTILE] * 4)
    failed = report.Card(HOSTILE, failure=HOSTILE)
    text, page = written(tmp_path, card, failed)
    assert text.count("<script") == 1  # ours
    assert page.images[0]["alt"] == f"{HOSTILE}: all in focus"
    assert page.text.count(HOSTILE) == 2 + 2 + 3  # failure; table; heading, note, label of the pair


def test_a_card_that_cannot_be_read_is_a_failure_with_a_mend(tmp_path):
    for content in (None, "{", '{"nonsense": 1}', "[]"):
        file = tmp_path / "bee.json"
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_text(content)
        with pytest.raises(StackError, match=r"bee\.json cannot be read as the card.*--overwrite"):
            report.read_card(file)
        report.write_report(tmp_path / "report.html", "A", [file])
        assert "bee.json cannot be read" in HtmlFile(tmp_path / "report.html").text


def test_of_very_many_stacks_the_first_have_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MOST_SHOWN", 1)
    failed = report.Card("broken", failure="no")
    _, page = written(tmp_path, failed, card_of("one"), card_of("two"))
    assert page.links == ["#s1"] and page.ids == ["s1"] and len(page.images) == 3
    assert "two" in page.text and "Pictures are shown for the first stack." in page.text


def test_a_page_that_cannot_be_made_leaves_the_old_one(tmp_path, monkeypatch):
    text, _ = written(tmp_path, card_of("old"))

    def fail(*_):
        raise StackError("full")

    monkeypatch.setattr(report, "_stack_part", fail)
    with pytest.raises(StackError, match="full"):
        written(tmp_path, card_of("new"))
    assert (tmp_path / "report.html").read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cards", "report.html"]


@pytest.mark.parametrize(
    "change",
    [
        {"name": 7}, {"failure": ["no"]}, {"file": 1}, {"width": "3"}, {"frames": None},
        {"seconds": "long"}, {"notes": "none"}, {"notes": [1]}, {"pictures": [1]},
        {"pictures": {"before": 3}}, {"pictures": {"before": ["data:", "1", 2]}}, {"unknown": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_card_of_other_types_is_a_failure_of_its_stack(tmp_path, change):
    report.write_card(tmp_path / "good.json", card_of())
    report.write_card(tmp_path / "bad.json", card_of())
    content = json.loads((tmp_path / "bad.json").read_text())
    (tmp_path / "bad.json").write_text(json.dumps(content | change))
    (tmp_path / "deep.json").write_text("[" * 100_000)
    files = [tmp_path / f"{name}.json" for name in ("good", "bad", "deep")]
    report.write_report(tmp_path / "report.html", "title", files)
    text = (tmp_path / "report.html").read_text()
    assert "1 stack fused" in text and "2 failed" in text
    assert text.count("cannot be read as the card of a stack") == 2
