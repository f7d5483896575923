"""Where the frames of a stack are: from pairs of frames that are compared to one place for each."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np

from stackmff.alignment.blur_matching import BlurMatcher, Match, discs_of, least_gap
from stackmff.alignment.edges import seconded
from stackmff.alignment.exposure import Exposures, Tiles, match
from stackmff.alignment.linking import (
    Key,
    Link,
    Pairs,
    chain_of,
    connect,
    contradicted,
    deviation,
    loops,
    settle,
    skipping,
)
from stackmff.alignment.parallax import Fields, refine
from stackmff.alignment.registration import (
    BLOCK,
    PARAMETERS,
    Motion,
    Pair,
    farthest,
    register,
    register_finely,
    register_roughly,
)
from stackmff.alignment.rigid import rigid
from stackmff.alignment.stillness import moves
from stackmff.alignment.views import Steps, View

STILL = 0.1  # px; a frame is not moved if none of its corners moves farther
SURE = 4  # standard deviations by which a corner must move before any frame is moved
# Of SURE. Standard deviations are told twice as large at half the size, so this is a third of what
# is needed to move a frame. Blur, and what it hides, shifts neighbours there by another third.
EARLY = 1 / 6
AT_ONCE = 4  # frames whose levels are kept while neighbours are compared
DISCS_KEPT = 12  # frames, 3 MB each
MOST_JUDGED = 24  # pairs, those that look least alike, that are judged by their blur
LEAST_APART = 0.5  # px of the compared pictures, from which on a contested place is told
UNPLACED = "cannot be aligned: comparisons with different frames place it differently"


class Placement:
    """Finds where the frames of a stack are, pair by pair.

    Args:
        views: of the N frames.
        size: (height, width) of the frames, px.
        motion: of the frames.
        steps: by which the work is done.

    Attributes:
        reference: index of the frame that the others are placed on.
        pairs: the pairs of frames that hold, {(a, b): Pair}.
        chain: for each frame its Link; None if it is left out.
        transforms: for each frame (3, 3) from the reference, or None.
        still: for each frame whether it is not moved.
        reasons: {index: why, in words that follow the name} of frames that were left out although
            they fit the reference.
        replaced: share of the picture in which something moves, so that `fields` gives it other
            displacements than were measured.
        apparent: `placed` before all frames were held still; empty if they were not.
    """

    reference: int
    pairs: Pairs
    chain: list[Link | None]
    transforms: list[np.ndarray | None]
    still: list[bool]

    def __init__(
        self, views: list[View], size: tuple[int, int], motion: Motion, steps: Steps
    ) -> None:
        self.views, self.size, self.motion, self.steps = views, size, motion, steps
        self.reasons: dict[int, str] = {}
        self.replaced = 0.0
        self.apparent: dict[int, np.ndarray] = {}
        self._contested: dict[Key, np.ndarray] = {}
        self._by_blur = False
        # A frame is compared with several others.
        self._discs = lru_cache(DISCS_KEPT)(lambda k: discs_of(self.views[k].luma))

    @property
    def kept(self) -> list[int]:
        """Indices of the frames that are not left out."""
        return [k for k, link in enumerate(self.chain) if link is not None]

    @property
    def placed(self) -> dict[int, np.ndarray]:
        """{index: (3, 3) transform} of these frames; the identity of those that are not moved."""
        return {
            k: np.eye(3) if fixed else matrix
            for k, (matrix, fixed) in enumerate(zip(self.transforms, self.still))
            if matrix is not None
        }

    def connect(self, reference: int | None, middle: int, thorough: bool) -> None:
        """Compare neighbours, and choose the reference if it is not given.

        They are compared at half the size first. If nothing moves, by far, that is all.

        Args:
            reference: index, or None.
            middle: index near which it is chosen.
            thorough: compare them to the end in any case.
        """
        seen = [k for k, view in enumerate(self.views) if not view.plain]
        neighbours = list(pairwise(seen))
        compare: Callable[[Key], Pair] = self._compare
        if self.views[middle].has_coarser():
            rough = self._compare_all(self._roughly(), neighbours)
            if not thorough and all(pair.holds and pair.sure for pair in rough.values()):
                self._connect(rough, seen, reference, middle, EARLY * SURE)
                if all(self.still):
                    return

            compare = partial(self._finely, rough)
        self._connect(self._compare_all(compare, neighbours), seen, reference, middle, SURE)

    def _connect(
        self, found: Pairs, seen: list[int], reference: int | None, middle: int, sure: float
    ) -> None:
        """Place the frames that are `seen` by their neighbours; see `connect`.

        Args:
            found: the pairs of neighbours.
            seen: indices of the frames that show detail.
            reference, middle: as of `connect`.
            sure: standard deviations by which a corner must move before any frame is moved.
        """
        self.reference, self.pairs = connect(found, seen, reference, middle, self._compare)
        self.chain = chain_of(self.pairs, self.reference, len(self.views))
        self.transforms = [None if link is None else link.transform for link in self.chain]
        self.still = self._which_are_still(
            lambda link: sure * float(np.sqrt(link.variance + link.doubt))
        )

    def settle(self) -> None:
        """Compare frames farther apart, and combine all pairs."""
        more = loops(self.pairs, self.transforms, self.reference)
        checks = self._compare_all(self._compare_again, more)
        self.pairs |= {key: pair for key, pair in checks.items() if pair.holds and pair.sure}
        self.transforms = settle(
            self.pairs, self.transforms, self.reference, self.size, self.motion
        )
        self.still = self._which_are_still(lambda link: float(np.sqrt(link.variance)))

    def is_deceived_by_blur(self) -> bool:
        """Whether blur was mistaken for motion between frames that were compared."""
        return self._any_is_refuted([key for key, pair in self.pairs.items() if not pair.by_edges])

    def has_drifted(self) -> bool:
        """Whether blur was mistaken for motion little by little, from frame to frame.

        Then frames farther apart, a quarter of the stack, fit clearly better elsewhere.
        """
        kept = self.kept
        middle, last = kept.index(self.reference), len(kept) - 1
        hops = sorted({0, middle // 2, middle, (middle + last) // 2, last})
        return self._any_is_refuted([(kept[a], kept[b]) for a, b in pairwise(hops)])

    def _any_is_refuted(self, keys: list[Key]) -> bool:
        """Whether any of two frames (a, b), as far as they move, is refuted by matched blur."""
        least = least_gap(self.views[self.reference].luma.shape) * self.views[0].factor
        moving = [key for key in keys if farthest(self._known(key), self.size) > least]
        if len(moving) > MOST_JUDGED:
            moving.sort(key=lambda key: self.pairs[key].likeness)
        return any(self.steps.run(self._is_refuted, moving[:MOST_JUDGED]))

    def place_by_blur(self, find_order: Callable[[], np.ndarray | None]) -> None:
        """Measure all pairs by matched blur, see alignment/blur_matching.py.

        Neighbours in focus order, and frames two and three apart in it, are compared, too. A frame
        that most of its pairs contradict is left out. The frames then move as steadily along that
        order as their pairs allow.

        Args:
            find_order: gives the focus order; None if that is the order of the frames.
        """
        self._by_blur = True
        order = find_order()
        along = self.kept if order is None else [int(k) for k in order if k in self.kept]
        nearest = [key for key in pairwise(along) if not {key, key[::-1]} & set(self.pairs)]
        self._measure_by_blur([*self.pairs, *nearest])
        self._measure_by_blur(skipping(along))
        while (odd := self._contradicted()) is not None:
            self.leave_out(odd, UNPLACED)
            self._combine()
        self._combine(along)

    def _contradicted(self) -> int | None:
        """See linking.contradicted."""
        return contradicted(self.pairs, self.transforms, self.reference, self.size)

    def _measure_by_blur(self, keys: list[Key]) -> None:
        """Compare pairs of frames by matched blur, where that works, and combine all pairs."""
        found = self._compare_all(self._compare_by_blur, keys)
        self.pairs |= {key: pair for key, pair in found.items() if pair.holds}
        self._combine()

    def _combine(self, along: Sequence[int] = ()) -> None:
        """Place the frames by all pairs, and if `along` is their focus order, steadily along it."""
        self.chain = chain_of(self.pairs, self.reference, len(self.views))
        chained = [None if link is None else link.transform for link in self.chain]
        along = [k for k in along if self.chain[k] is not None]
        self.transforms = settle(self.pairs, chained, self.reference, self.size, self.motion, along)
        self.still = self._which_are_still(lambda link: float(np.sqrt(link.variance)))

    def _is_refuted(self, key: Key) -> bool:
        """Whether two frames (a, b) fit clearly better elsewhere once their blur is matched."""
        matcher, known = self._matcher(key), self._known(key)
        found = matcher.best([np.eye(3), known])
        return found is not None and found.explains and matcher.refutes(known, found)

    def _known(self, key: Key) -> np.ndarray:
        """The (3, 3) transform between two frames (a, b), measured or by way of others."""
        if key in self.pairs:
            return self.pairs[key].transform
        first, second = (self._transform(k) for k in key)
        return second @ np.linalg.inv(first)

    def _compare_by_blur(self, key: Key) -> Pair:
        """The Pair of two frames (a, b) by matched blur; it does not hold if that fails."""
        found = self._match_blur(key)
        if found is None or not found.explains:
            return Pair(np.eye(3), np.eye(PARAMETERS[self.motion]), 0.0, 1, 1)
        blocks = self.views[key[0]].luma.size // BLOCK**2
        return Pair(
            found.transform,
            found.covariance,
            found.explained,
            blocks,
            found.factor,
            found.blur,
        )

    def _match_blur(self, key: Key) -> Match | None:
        """The Match of two frames (a, b) from where they are, or from no motion."""
        first, second = (self._transform(k) for k in key)
        return self._matcher(key).best([np.eye(3), second @ np.linalg.inv(first)])

    def _matcher(self, key: Key) -> BlurMatcher:
        """Compares two frames (a, b)."""
        first, second = map(self._discs, key)
        return BlurMatcher(first, second, self.views[key[0]].factor, self.size, self.motion)

    def hold_still(self) -> float:
        """Decide that no frame moves if what is sharp does not, see stillness.moves.

        Returns:
            By how many px a frame seemed to move; 0 if frames do move, or none seemed to.
        """
        levels = [view.levels()[0] for view in self.views]
        if (
            all(self.still)
            or self._edges_move()
            or moves(levels, self.transforms, self.size, self.motion, self._match_blur)
        ):
            return 0.0
        self.apparent = self.placed
        self.still = [True] * len(self.still)
        return max(farthest(m, self.size) for m in self.transforms if m is not None)

    def _edges_move(self) -> bool:
        """Whether frames that edges alone can place move beyond doubt."""
        return any(
            farthest(pair.transform, self.size) > SURE * deviation(pair)
            for pair in self.pairs.values()
            if pair.by_edges
        )

    def _compare_all(self, compare: Callable[[Key], Pair], keys: list[Key]) -> Pairs:
        return dict(zip(keys, self.steps.run(compare, keys)))

    def _compare(self, key: Key, tried: Pair | None = None) -> Pair:
        """The Pair of two frames (a, b); see registration.register."""
        a, b = (self.views[k].levels() for k in key)
        return self._seconded(key, register(a, b, self.size, self.motion, tried=tried))

    def _roughly(self) -> Callable[[Key], Pair]:
        """Makes the Pair of two frames (a, b) without their finest levels."""
        coarser = lru_cache(AT_ONCE)(lambda k: self.views[k].coarser())

        def compare(key: Key) -> Pair:
            first, second = (coarser(k) for k in key)
            return register_roughly(first, second, self.size, self.motion)

        return compare

    def _finely(self, rough: Pairs, key: Key) -> Pair:
        """The Pair of two frames (a, b) as of `_compare`, from those without finest levels."""
        first, second = (self.views[k].finest() for k in key)
        found = register_finely(first, second, self.size, self.motion, rough[key])
        return self._seconded(key, found) if found.sure else self._compare(key, found)

    def _compare_again(self, key: Key) -> Pair:
        """The Pair of two frames (a, b), starting from what is known of them."""
        a, b = (self.views[k].levels() for k in key)
        return self._seconded(key, register(a, b, self.size, self.motion, self._known(key)))

    def _seconded(self, key: Key, pair: Pair) -> Pair:
        """The Pair of two frames (a, b), by their edges if those tell it better; see edges.py."""
        a, b = (self.views[k] for k in key)
        found = seconded(a.luma, b.luma, a.factor, self.size, self.motion, pair)
        if found.contested is not None:
            self._contested[key] = found.contested
        return found

    def by_edges(self) -> Pairs:
        """The pairs that were placed by the strength of their edges, the nearest frames first."""
        found = {key: pair for key, pair in self.pairs.items() if pair.by_edges}
        return {key: found[key] for key in _nearest_first(found)}

    def contested(self) -> dict[Key, float]:
        """{(a, b): px} of frames that edges place at least LEAST_APART px elsewhere, if surely."""
        out = {}
        for key, there in self._contested.items():
            if not {*key} - {*self.kept}:
                first, second = (self._transform(k) for k in key)
                apart = farthest(first @ np.linalg.inv(second) @ there, self.size)
                if apart >= LEAST_APART * self.views[0].factor:
                    out[key] = apart
        return {key: out[key] for key in _nearest_first(out)}

    def _transform(self, k: int) -> np.ndarray:
        """The (3, 3) transform of a frame that is kept."""
        matrix = self.transforms[k]
        assert matrix is not None, f"frame {k} is left out"
        return matrix

    def _which_are_still(self, deviation: Callable[[Link], float]) -> list[bool]:
        """For each frame whether it moves too little, or too uncertainly, to be moved.

        Args:
            deviation: standard deviation, px, below which the motion of a frame is uncertain.
        """
        return [
            link is None
            or matrix is None
            or farthest(matrix, self.size) <= max(STILL, deviation(link))
            for link, matrix in zip(self.chain, self.transforms)
        ]

    def exposures(self, finer: Callable[[int], Tiles], wanted: int | None) -> Exposures:
        """Find the exposures, and leave out frames that cannot be matched; see exposure.match.

        If the reference is one of them, the frame whose exposure the others get takes its place.

        Args:
            finer: as of exposure.match.
            wanted: the reference that was asked for, which is kept; None: none was.
        """
        tiles = [view.tiles for view in self.views]
        found = match(tiles, self.pairs, self.transforms, self.reference, finer)
        if self.reference in found.unmatched and wanted is None:
            self.place_on(found.like)
        for k, why in found.unmatched.items():
            if k != self.reference:
                self.leave_out(k, why)
                found.gains[k] = 1
        if found.unmatched and not all(self.still):
            self._bridge()
        return found

    def _bridge(self) -> None:
        """Place the frames again without those that were left out: what is white bends its pairs.

        The frames on both sides of them are compared with each other.
        """
        compare = self._compare_by_blur if self._by_blur else self._compare_again
        apart = [key for key in pairwise(self.kept) if not {key, key[::-1]} & set(self.pairs)]
        found = self._compare_all(compare, apart)
        self.pairs |= {key: pair for key, pair in found.items() if pair.holds}
        self._combine()

    def place_on(self, reference: int) -> None:
        """Make another frame the reference."""
        inverse = np.linalg.inv(self._transform(reference))
        self.reference = reference
        self.transforms = [None if m is None else m @ inverse for m in self.transforms]
        # What was still stays so only if the new reference was.
        moves = not self.still[reference]
        self.still = [k == reference or (s and not moves) for k, s in enumerate(self.still)]

    def leave_out(self, k: int, why: str) -> None:
        """Leave out a frame that was placed.

        Args:
            k: index.
            why: in words that follow the name of the frame.
        """
        self.reasons[k] = why
        self.chain[k] = self.transforms[k] = None
        self.pairs = {key: pair for key, pair in self.pairs.items() if k not in key}

    def fields(self) -> Fields:
        """See parallax.refine and rigid.rigid; none that hardly moves a frame that is not moved."""
        levels_of = [view.levels for view in self.views]
        alike = [key for key, pair in self.pairs.items() if not pair.by_edges]
        seen = refine(levels_of, self.transforms, self.reference, alike, self.steps.run)
        fields = {
            k: field
            for k, field in rigid(seen, self.views[0].factor).items()
            if not self.still[k] or np.abs(field).max() > STILL
        }
        changes = [np.abs(field - seen[k]).max(-1) > STILL for k, field in fields.items()]
        self.replaced = float(np.any(changes, 0).mean()) if changes else 0.0
        return fields

    def left_out(self) -> dict[int, str]:
        """{index: why} of the frames that are left out."""
        unfit = "does not fit the reference: it shows another scene or is too blurred"
        return {
            k: "shows no detail" if self.views[k].plain else self.reasons.get(k, unfit)
            for k, matrix in enumerate(self.transforms)
            if matrix is None
        }

    def final_transforms(self, fields: Iterable[int]) -> list[np.ndarray | None]:
        """The transforms (2, 3); frames that are not moved and have no field have the identity."""
        return [
            None if matrix is None else np.eye(2, 3) if fixed and k not in fields else matrix[:2]
            for k, (matrix, fixed) in enumerate(zip(self.transforms, self.still))
        ]


def _nearest_first(keys: Iterable[Key]) -> list[Key]:
    """Pairs of frames (a, b), those that lie next to each other first."""
    return sorted(keys, key=lambda key: (abs(key[0] - key[1]), key))
