"""Logical anomalies without seams: intact components that are missing, moved, too many, exchanged or turned, and states of
regions that never occur together. Made from normal images, to choose weights by; never to train on.

What is drawn at a random place has borders that no normal image shows, and a branch that looks at surfaces sees these for
nothing. Here a component is cut out where its surroundings are calm, its place is filled by a membrane with their grain,
and where it is laid its rim takes the light of the new surroundings; a region of another state is taken from an aligned
image along the line where both agree. They are never faded: half a component is no logical anomaly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.images import Image, resize
from edge_ad.data.logical_anomalies import colours, lab_of
from edge_ad.data.part_regions import Mask, estimate_part, filled, find_components, own_part
from edge_ad.data.synthetic_anomalies import inspected_part

Images = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]
Move = tuple[int, int]
Turn = Callable[[Float], npt.NDArray[np.float32]]

MAX_COMPONENTS = 16
MIN_SHARE, MAX_SHARE = 0.002, 0.35  # of the part that a component covers
MIN_SOLID = 0.5  # share of its rectangle that a component fills
SAME = 0.6  # intersection over union from which two components are one
MIN_STEP, CALM = 8.0, 1.5  # the step in L*a*b* from a component to its ring: at least, and times the ring's own spread
MIN_MOVE, MAX_MOVE = 0.3, 1.5  # of the component's longer side
RIM_SPREAD = 12  # grey levels that the light may differ by around a component
GREY = 16  # grey levels by which MIN_CHANGED of the part must differ, else it is drawn again
MIN_CHANGED = 0.001
PER_KIND = 20
MAX_IMAGES = 40  # normal images that anomalies are drawn on


@dataclass(frozen=True, eq=False)
class Component:
    """A part of the image that can be taken away: where it is, bool[H,W], and how likely it is drawn."""

    mask: Mask
    weight: float

    @cached_property
    def area(self) -> int:
        """Its pixels."""
        return int(self.mask.sum())

    @cached_property
    def points(self) -> npt.NDArray[np.intp]:
        """Row and column of its pixels [N,2]."""
        return np.argwhere(self.mask)

    @property
    def side(self) -> int:
        """Its longer side in pixels."""
        return int((np.ptp(self.points, axis=0) + 1).max())

    @cached_property
    def cut(self) -> tuple[tuple[slice, slice], Float]:
        """The window of the component with its soft edge, and the weight of its pixels there, 0 to 1."""
        edge = max(4, round(0.12 * np.sqrt(self.area)))
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * edge + 1, 2 * edge + 1))
        whole = cv2.dilate(self.mask.astype(np.uint8), kernel)
        rows, columns = np.flatnonzero(whole.any(axis=1)), np.flatnonzero(whole.any(axis=0))
        window = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
        inside = cv2.distanceTransform(np.pad(whole[window], 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        return window, np.asarray(np.clip(inside / edge, 0, 1), np.float32)


@dataclass(frozen=True, eq=False)
class Arrangement:
    """A normal image, its part, and the components on it."""

    image: Image
    part: Mask
    components: Sequence[Component]

    def random(self, rng: np.random.Generator) -> Component | None:
        """Return one of the components, a large or plain one more often; None where there is none."""
        if not self.components:
            return None
        weights = np.array([component.weight for component in self.components])
        return self.components[int(rng.choice(len(weights), p=weights / weights.sum()))]

    def holds(self, component: Component, move: Move) -> bool:
        """Whether the component lies on the part when it is moved."""
        points = component.points + move
        inside = (points >= 0).all() and (points < self.part.shape).all()
        return bool(inside and self.part[tuple(points.T)].mean() > 0.98)

    def overlap(self, component: Component, move: Move) -> float:
        """Return the largest share of the moved component that covers a component."""
        points = tuple((component.points + move).T)
        return max(float(other.mask[points].mean()) for other in self.components)


def arrangement_of(image: Image, part: Mask, rng: np.random.Generator) -> Arrangement:
    """Find the components of a normal image: small regions that stand out, and compact areas of one colour, each in calm
    surroundings on the part.
    """
    own = own_part(image, part)
    lab, area = lab_of(image), int(own.sum())
    masks: list[Mask] = []
    candidates = (
        mask for mask in _candidates(image, own, lab, rng) if MIN_SHARE * area <= mask.sum() <= MAX_SHARE * area
    )
    for mask in sorted(candidates, key=lambda mask: -int(mask.sum())):
        if len(masks) < MAX_COMPONENTS and all((mask & other).sum() < SAME * (mask | other).sum() for other in masks):
            masks.append(mask)
    steps = [_step_to_ring(lab, own, mask) for mask in masks]
    components = [Component(mask, step * float(mask.sum())) for mask, step in zip(masks, steps, strict=True) if step > 0]
    return Arrangement(image, own, components)


def _candidates(image: Image, part: Mask, lab: Float, rng: np.random.Generator) -> Iterator[Mask]:
    for window, shape in find_components(image, part):
        mask = np.zeros(part.shape, bool)
        mask[window] = shape > 0
        yield mask
    labels = colours(lab, rng)
    inner = cv2.erode(part.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0) > 0
    smallest = MIN_SHARE * part.sum()
    for colour in range(int(labels.max()) + 1):
        same = ((labels == colour) & part).astype(np.uint8)
        count, pieces, details, _ = cv2.connectedComponentsWithStats(same, connectivity=4)
        for piece in range(1, count):
            if details[piece, cv2.CC_STAT_AREA] < smallest:
                continue
            mask = filled((pieces == piece).astype(np.uint8)) > 0
            box = details[piece, cv2.CC_STAT_WIDTH] * details[piece, cv2.CC_STAT_HEIGHT]
            if mask.sum() >= MIN_SOLID * box and inner[mask].mean() > 0.98:
                yield mask


def _step_to_ring(lab: Float, part: Mask, mask: Mask) -> float:
    """Return the distance in L*a*b* between a component and the ring around it, 0 where the ring is not calm or not on the part."""
    near = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8))
    ring = (cv2.dilate(near, np.ones((5, 5), np.uint8)) > 0) & (near == 0)
    if not ring.any() or part[ring].mean() < 0.95:
        return 0.0
    around = np.median(lab[ring], axis=0)
    spread = float(np.median(np.linalg.norm(lab[ring] - around, axis=1)))
    step = float(np.linalg.norm(lab[mask] - around, axis=1).mean())
    return step if step > max(MIN_STEP, CALM * spread) else 0.0


def erased(image: Image, component: Component, rng: np.random.Generator) -> Image:
    """Return the image without the component: its place is a membrane between its surroundings, with their grain."""
    (rows, columns), alpha = component.cut
    margin = max(4, max(alpha.shape) // 8)
    window = (
        slice(max(0, rows.start - margin), rows.stop + margin),
        slice(max(0, columns.start - margin), columns.stop + margin),
    )
    around = image[window].astype(np.float32)
    weight = np.zeros(around.shape[:2], np.float32)
    top, left = rows.start - window[0].start, columns.start - window[1].start
    weight[top : top + alpha.shape[0], left : left + alpha.shape[1]] = alpha
    hole = weight > 0
    ring = (cv2.dilate(hole.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0) & ~hole
    fine = np.abs(around - cv2.GaussianBlur(around, (0, 0), 2.0))[ring]
    grain = float(np.quantile(fine, 0.3)) / 0.385 if len(fine) else 0.0  # of a normal distribution; edges do not count
    fill = _membrane(around, (~hole).astype(np.float32)) + rng.normal(0, grain, (*hole.shape, 1)).astype(np.float32)
    result = image.copy()
    result[window] = _u8(around + weight[..., None] * (fill - around))
    return result


def _membrane(values: Float, known: Float) -> Float:
    """Return f32[h,w,3] that is smooth where ``known`` f32[h,w] is 0 and as it was elsewhere: coarse to fine."""
    height, width = known.shape
    whole, unknown = known[..., None] > 0.5, bool((known < 0.5).any())
    if unknown and min(height, width) > 8:
        size = (max(2, (width + 1) // 2), max(2, (height + 1) // 2))
        share = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
        mean = (
            cv2.resize(values * known[..., None], size, interpolation=cv2.INTER_AREA)
            / np.maximum(share, 1e-6)[..., None]
        )
        coarse = _membrane(np.asarray(mean, np.float32), (share > 0.01).astype(np.float32))
        result = np.where(whole, values, cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR))
    else:
        middle = values[known > 0.5].mean(axis=0) if (known > 0.5).any() else values.mean(axis=(0, 1))
        result = np.where(whole, values, middle.astype(np.float32))
    for _ in range(12):
        result = np.where(whole, values, cv2.blur(result, (3, 3)))
    return np.asarray(result, np.float32)


def laid(target: Image, source: Image, component: Component, move: Move, *, turn: Turn | None = None) -> Image:
    """Return ``target`` with the component of ``source``, moved and perhaps turned, in the light of its new surroundings."""
    (rows, columns), alpha = component.cut
    patch = source[rows, columns].astype(np.float32)
    if turn is not None:
        patch, alpha = np.ascontiguousarray(turn(patch)), np.ascontiguousarray(turn(alpha))
    place = slice(rows.start + move[0], rows.stop + move[0]), slice(columns.start + move[1], columns.stop + move[1])
    top, left = max(0, -place[0].start), max(0, -place[1].start)  # a soft edge may reach beyond the image
    place = slice(max(0, place[0].start), place[0].stop), slice(max(0, place[1].start), place[1].stop)
    under = target[place].astype(np.float32)
    seen = slice(top, top + under.shape[0]), slice(left, left + under.shape[1])
    patch, alpha = patch[seen], alpha[seen]
    rim = (alpha > 0) & (alpha <= 0.5)  # its outer half shows surroundings alone
    step = under - patch
    middle = np.median(step[rim], axis=0) if rim.any() else np.zeros(3, np.float32)
    step = np.clip(step, middle - RIM_SPREAD, middle + RIM_SPREAD)
    light = np.clip(_spread(step, rim.astype(np.float32), max(1.0, 0.25 * min(alpha.shape))), -60, 60)
    result = target.copy()
    result[place] = _u8(under + alpha[..., None] * (np.clip(patch + light, 0, 255) - under))
    return result


def _spread(values: Float, weight: Float, reach: float) -> Float:
    """Return the mean of ``values`` f32[h,w,3] around each pixel, those of ``weight`` f32[h,w]."""
    total = cv2.GaussianBlur(weight, (0, 0), reach, borderType=cv2.BORDER_CONSTANT) + 1e-6
    blurred = cv2.GaussianBlur(values * weight[..., None], (0, 0), reach, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(blurred / total[..., None], np.float32)


def _u8(values: npt.NDArray[np.floating]) -> Image:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def absent(scene: Arrangement, rng: np.random.Generator) -> Image | None:
    """Take a component away."""
    component = scene.random(rng)
    return None if component is None else erased(scene.image, component, rng)


def moved(scene: Arrangement, rng: np.random.Generator) -> Image | None:
    """Move a component by a share of its size, on the part."""
    component = scene.random(rng)
    for _ in range(20 if component else 0):
        assert component is not None
        angle, share = float(rng.uniform(0, 2 * np.pi)), float(np.exp(rng.uniform(np.log(MIN_MOVE), np.log(MAX_MOVE))))
        move = round(np.sin(angle) * share * component.side), round(np.cos(angle) * share * component.side)
        if max(map(abs, move)) >= 3 and scene.holds(component, move):
            return laid(erased(scene.image, component, rng), scene.image, component, move)
    return None


def extra(scene: Arrangement, rng: np.random.Generator) -> Image | None:
    """Show a component a second time where it covers least of the others."""
    component = scene.random(rng)
    if component is None:
        return None
    middle, places = component.points.mean(axis=0), np.argwhere(scene.part)
    best, least = None, 1.0
    for _ in range(40):
        down, across = (places[int(rng.integers(len(places)))] - middle).astype(int)
        move = int(down), int(across)
        if scene.holds(component, move) and (covered := scene.overlap(component, move)) < least:
            best, least = move, covered
        if least == 0:
            break
    return None if best is None else laid(scene.image, scene.image, component, best)


def exchanged(scene: Arrangement, rng: np.random.Generator) -> Image | None:
    """Let two components of like size change places."""
    first = scene.random(rng)
    if first is None:
        return None
    others = [
        other for other in scene.components
        if not (other.mask & first.mask).any() and 0.25 < other.area / first.area < 4
    ]  # fmt: skip
    if not others:
        return None
    second = others[int(rng.integers(len(others)))]
    down, across = np.rint(second.points.mean(axis=0) - first.points.mean(axis=0)).astype(int)
    empty = erased(erased(scene.image, first, rng), second, rng)
    return laid(
        laid(empty, scene.image, first, (int(down), int(across))), scene.image, second, (-int(down), -int(across))
    )


TURNS: tuple[Turn, ...] = (np.fliplr, np.flipud, lambda patch: patch[::-1, ::-1])


def turned(scene: Arrangement, rng: np.random.Generator) -> Image | None:
    """Mirror a component or turn it upside down."""
    component = scene.random(rng)
    if component is None:
        return None
    turn = TURNS[int(rng.integers(len(TURNS)))]
    return laid(erased(scene.image, component, rng), scene.image, component, (0, 0), turn=turn)


Maker = Callable[[Arrangement, np.random.Generator], "Image | None"]
_ARRANGEMENTS: dict[str, Maker] = {
    "absent": absent,
    "moved": moved,
    "extra": extra,
    "exchanged": exchanged,
    "turned": turned,
}
COMBINED = "combined"
ARRANGEMENT_KINDS = tuple(_ARRANGEMENTS)
LOGICAL_KINDS = (*ARRANGEMENT_KINDS, COMBINED)

FAMILIES = SURFACE, ARRANGEMENT, COMBINATION = "surface", "arrangement", "combination"


def family_of(kind: str) -> str:
    """Return the family of a kind of synthetic anomaly: a changed surface, a wrong arrangement, or a wrong combination."""
    return COMBINATION if kind == COMBINED else ARRANGEMENT if kind in ARRANGEMENT_KINDS else SURFACE


THUMBNAIL = 64
MIN_DIFFERENCE = 12.0  # in L*a*b*: another state
LIKE = 0.5  # of the difference between two states: less is the same state
MIN_EXPECTED = 5.0  # images with both states, were they independent: that none is has then a chance below 1 %
MIN_REGION = 0.004  # of the part
MIN_INSIDE = 0.2  # of a region that is not its border
CANDIDATES = 12  # other images that are tried for each


@dataclass(frozen=True, eq=False)
class States:
    """Thumbnails in L*a*b* f32[N,S,S,3] of aligned normal images: which states of regions they show together."""

    thumbnails: Float

    @classmethod
    def of(cls, images: Images) -> States:
        """Measure normal images u8[N,H,W,3]."""
        return cls(np.stack([_thumbnail(image) for image in images]))

    def never_together(self, first: Float, second: Float, region: Mask, rest: Mask) -> bool:
        """Whether many images show the ``rest`` as thumbnail ``first`` does, many the ``region`` as ``second``, and none both."""
        shares = []
        for one, place, other in ((first, rest, second), (second, region, first)):
            difference = float(np.linalg.norm(one[place] - other[place], axis=1).mean())
            if difference < MIN_DIFFERENCE / 1.5:
                return False
            shares.append(np.linalg.norm(self.thumbnails[:, place] - one[place], axis=2).mean(axis=1) / difference)
        like = [share < LIKE for share in shares]
        return bool(like[0].sum() * like[1].sum() >= MIN_EXPECTED * len(like[0]) and not (like[0] & like[1]).any())


def _thumbnail(image: Image) -> Float:
    return np.asarray(cv2.GaussianBlur(lab_of(resize(image, (THUMBNAIL, THUMBNAIL))), (0, 0), 1.0), np.float32)


def combined(index: int, normal: Images, part: Mask, states: States, *, rng: np.random.Generator) -> Image | None:
    """Show in one region of image ``index`` what another image shows there: a state that never goes with the rest.

    The first thumbnails of ``states`` are those of the ``normal`` images. None where no two regions have states that are
    common by themselves and never occur together.
    """
    own = states.thumbnails[index]
    on_part = resize(part.astype(np.uint8) * np.uint8(255), (THUMBNAIL, THUMBNAIL)) > 127
    choices: list[tuple[int, Mask, float]] = []
    for other in rng.permutation(len(normal))[:CANDIDATES]:
        there = states.thumbnails[other]
        distance = np.linalg.norm(there - own, axis=2)
        differing = ((distance > MIN_DIFFERENCE) & on_part).astype(np.uint8)
        count, pieces, details, _ = cv2.connectedComponentsWithStats(differing, connectivity=4)
        for piece in range(1, count):
            region = pieces == piece
            rest = (differing > 0) & ~region
            enough = min(int(details[piece, cv2.CC_STAT_AREA]), int(rest.sum())) >= max(4, MIN_REGION * on_part.sum())
            if enough and _is_solid(region) and states.never_together(own, there, region, rest):
                choices.append((int(other), region, float(np.sqrt(region.sum()) * distance[region].mean())))
    if not choices:
        return None
    weights = np.array([weight for _, _, weight in choices])
    other, region, _ = choices[int(rng.choice(len(choices), p=weights / weights.sum()))]
    return transplanted(normal[index], normal[other], region, part)


def _is_solid(region: Mask) -> bool:
    """Whether a region has an inside: thin ones are borders of something that moves."""
    inside = cv2.erode(region.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1)
    return bool(inside.sum() >= MIN_INSIDE * region.sum())


def transplanted(image: Image, other: Image, region: Mask, part: Mask) -> Image:
    """Return the image with what the ``other`` shows in a ``region`` bool[S,S] of thumbnails, cut where the two agree."""
    size = part.shape
    near = cv2.dilate(resize(region.astype(np.uint8) * np.uint8(255), size), np.ones((5, 5), np.uint8)) > 127
    calm = [cv2.GaussianBlur(lab_of(one), (0, 0), 1.5) for one in (image, other)]
    differing = ((np.linalg.norm(calm[1] - calm[0], axis=2) > MIN_DIFFERENCE) & part & near).astype(np.uint8)
    closed = cv2.morphologyEx(differing, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    alpha = cv2.GaussianBlur(cv2.dilate(closed, np.ones((5, 5), np.uint8)).astype(np.float32), (0, 0), 1.2)
    rim = ((alpha > 0.02) & (alpha < 0.98)).astype(np.float32)
    here, there = image.astype(np.float32), other.astype(np.float32)
    light = _spread(np.clip(here - there, -40, 40), rim, max(1.5, 0.1 * float(np.sqrt(closed.sum()))))
    near_rim = np.clip(cv2.GaussianBlur(rim, (0, 0), 1.5), 0, 1)[..., None]
    return _u8(here + alpha[..., None] * (np.clip(there + near_rim * light, 0, 255) - here))


def logical_anomalies(
    normal: Images, known: Images, seed: int, part: Mask | None = None,
    *, inspected: Mask | None = None, per_kind: int = PER_KIND,
) -> tuple[Images, tuple[str, ...]]:  # fmt: skip
    """Return ``per_kind`` anomalies of each kind, drawn on ``normal`` images u8[N,H,W,3], and their kinds.

    A kind of which these images do not allow half as many is left out; there may be none. ``known`` are more normal images:
    what they show together is no anomaly. ``part`` bool[H,W] says where the part may be; by default it is estimated.
    Nothing is changed but what is ``inspected`` bool[H,W], where that is given.
    """
    part = inspected_part(estimate_part(list(normal)) if part is None else part, inspected)
    chosen = normal[:MAX_IMAGES]
    scenes = [arrangement_of(image, part, np.random.default_rng([seed, 13, row])) for row, image in enumerate(chosen)]
    makers = {kind: _on_scenes(scenes, maker) for kind, maker in _ARRANGEMENTS.items()}
    makers[COMBINED] = _on_states(chosen, scenes, States.of(np.concatenate([normal, known])))
    results: list[Image] = []
    kinds: list[str] = []
    for number, (kind, draw) in enumerate(makers.items()):
        drawn = _draw(scenes, draw, per_kind, np.random.default_rng([seed, 14, number]), inspected=inspected)
        if 2 * len(drawn) >= per_kind:
            results += drawn
            kinds += [kind] * len(drawn)
    return np.stack(results) if results else np.empty((0, *normal.shape[1:]), np.uint8), tuple(kinds)


Draw = Callable[[int, np.random.Generator], "Image | None"]


def _on_scenes(scenes: Sequence[Arrangement], maker: Maker) -> Draw:
    return lambda index, rng: maker(scenes[index], rng)


def _on_states(normal: Images, scenes: Sequence[Arrangement], states: States) -> Draw:
    return lambda index, rng: combined(index, normal, scenes[index].part, states, rng=rng)


def _draw(
    scenes: Sequence[Arrangement], draw: Draw, count: int, rng: np.random.Generator, *, inspected: Mask | None
) -> list[Image]:
    """Return up to ``count`` anomalies that can be seen; the images take turns, at most twice as often as needed."""
    results: list[Image] = []
    for turn in range(2 * max(count, len(scenes))):
        if len(results) == count or (turn == len(scenes) and not results):
            break
        index = turn % len(scenes)
        image = draw(index, rng)
        if image is not None and inspected is not None:
            image = np.where(inspected[..., None], image, scenes[index].image)
        if image is not None and _is_clear(scenes[index], image):
            results.append(image)
    return results


def _is_clear(scene: Arrangement, image: Image) -> bool:
    changed = np.abs(image.astype(np.int16) - scene.image).max(axis=2) >= GREY
    return bool(changed.sum() >= max(9, MIN_CHANGED * scene.part.sum()))
