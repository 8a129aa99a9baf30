"""Read folder layouts (a folder of normal images, MVTec AD, MVTec LOCO AD) and manifests, and split the normal images."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from edge_ad.data.exclusions import read_exclusions
from edge_ad.data.folders import (
    LEFT_OUT,
    UNLABELLED,
    FolderUse,
    is_normal_name,
    list_named,
    list_nested,
    named_as_anomalies,
    normal_folders,
    relative,
    sub_folders,
    unread_folders,
)
from edge_ad.data.images import check_image, list_images, significant_bits, warn_depth
from edge_ad.data.manifests import ANOMALY, SUFFIXES, Colour, ManifestImage, is_manifest, read_manifest
from edge_ad.data.near_duplicates import near_duplicate_groups, usable_thumbnails
from edge_ad.errors import BadInput

MIN_NORMAL_IMAGES = 10
"""Fewer normal images than this are refused: no part of the split would say anything."""

SHARES = (0.70, 0.15, 0.15)
"""Shares of fit, normalise and threshold where a folder brings no split of its own."""

HELD_BACK = 0.12
"""Share of the training normal images held back for normalising where the folder brings its own validation normal images."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class NormalSplit:
    """Three disjoint sets of good images.

    ``fit`` trains; ``normalise`` gives the moment to stop and how maps are pooled; ``threshold`` takes part in nothing
    before. Both together give mean, standard deviation, weights and, each image by the others, the thresholds.
    """

    fit: tuple[Path, ...]
    normalise: tuple[Path, ...]
    threshold: tuple[Path, ...]


def split_groups(groups: Sequence[Sequence[Item]], wanted: Sequence[int], seed: int) -> tuple[list[Item], ...]:
    """Deal ``groups`` out, seeded, into len(wanted) + 1 lists: first the rest, then one list for each wanted size.

    No group is torn. A group too large for what a list still wants goes to the rest; a list that stays empty that way
    gets the smallest group of the rest, as long as the rest keeps one. Where the groups do not suffice for all lists,
    their items are dealt singly, because a split is needed more than its purity.
    """
    order = np.random.default_rng(seed).permutation(len(groups))
    dealt: list[list[Sequence[Item]]] = [[] for _ in wanted]
    rest: list[Sequence[Item]] = []
    for index in order:
        group = groups[int(index)]
        fitting = (k for k, size in enumerate(wanted) if _count(dealt[k]) + len(group) <= size)
        target = next(fitting, None)
        (rest if target is None else dealt[target]).append(group)
    for k, size in enumerate(wanted):
        if size > 0 and not dealt[k] and len(rest) > 1:
            smallest = min(rest, key=len)
            rest.remove(smallest)
            dealt[k].append(smallest)
    if any(size > 0 and not part for size, part in zip(wanted, dealt, strict=True)) and max(map(len, groups)) > 1:
        return split_groups([[item] for group in groups for item in group], wanted, seed)
    return tuple([item for group in part for item in group] for part in [rest, *dealt])


def split_all(groups: Sequence[Sequence[Path]], seed: int) -> NormalSplit:
    """Return a seeded split of all normal images by SHARES (at least 2 in each small part), near-duplicate groups kept
    whole.
    """
    count = _count(groups)
    wanted = [max(2, round(share * count)) for share in SHARES[1:]]
    fit, normalise, threshold = split_groups(groups, wanted, seed)
    return _sorted_split(fit, normalise, threshold)


def split_training(groups: Sequence[Sequence[Path]], threshold: Sequence[Path], seed: int) -> NormalSplit:
    """Return a split whose ``threshold`` is given and whose ``normalise`` is HELD_BACK of the training normal images
    (at least 2).
    """
    fit, normalise = split_groups(groups, [max(2, round(HELD_BACK * _count(groups)))], seed)
    return _sorted_split(fit, normalise, threshold)


def _count(groups: Sequence[Sequence[Item]]) -> int:
    return sum(len(group) for group in groups)


def _sorted_split(fit: Sequence[Path], normalise: Sequence[Path], threshold: Sequence[Path]) -> NormalSplit:
    return NormalSplit(tuple(sorted(fit)), tuple(sorted(normalise)), tuple(sorted(threshold)))


__all__ = ["DataSet", "NormalSplit", "Saturation", "TestItem", "find_categories", "load_dataset", "load_test"]

Layout = Literal["flat", "mvtec", "loco", "manifest"]
Kind = Literal["good", "logical", "structural"]

MINIMUM_VALIDATION = 20
"""Validation folders with fewer normal images than this are too small for a threshold: all normal images are split anew instead."""

MIN_SIDE = 32
"""Shorter sides than this, in pixels, are refused: a network's cell would see a pixel or less."""

LAYOUTS_HELP = "a folder of good images, or one with train/good (MVTec AD or MVTec LOCO AD layout)"


@dataclass(frozen=True)
class Saturation:
    """How much of a defect must be found for it to count as found: a share of its area, or an area in pixels."""

    threshold: float
    relative: bool


@dataclass(frozen=True)
class TestItem:
    """One labelled image of the test split; ``masks`` holds one file for each defect channel, empty where there is
    none. ``bits``: how its 16-bit values are read, see ``read_image``. ``background``: the colour (red, green, blue) of
    masks where there is no defect, None where that is black.
    """

    __test__ = False  # the name is not a test case's

    path: Path
    kind: Kind
    defect: str
    masks: tuple[Path, ...] = ()
    bits: int = 16
    background: Colour | None = None


@dataclass(frozen=True)
class DataSet:
    """What a folder holds.

    ``skipped`` lists normal images that cannot be read, each with the reason. ``sizes`` counts the normal images by
    "WIDTHxHEIGHT" in pixels. ``saturation`` maps a pixel value of the masks to its saturation threshold (empty: every
    defect must be found whole). ``folders`` says what was read from which folder as what, left-out folders included.
    ``bits``: how many bits the values of its 16-bit files use, see ``significant_bits``. ``excluded``: normal images that the
    user left out.
    """

    name: str
    layout: Layout
    root: Path
    normal: NormalSplit
    test: tuple[TestItem, ...]
    skipped: tuple[tuple[Path, str], ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    saturation: Mapping[int, Saturation] = field(default_factory=dict)
    folders: tuple[FolderUse, ...] = ()
    bits: int = 16
    excluded: tuple[Path, ...] = ()

    @property
    def has_masks(self) -> bool:
        """Whether the set marks its defects: then every anomaly must have a mask."""
        if self.layout == "manifest":
            return any(item.masks for item in self.test)
        return self.layout != "flat" and (self.root / "ground_truth").is_dir()


def load_dataset(path: Path | str, seed: int = 0, exclude: Path | None = None) -> DataSet:
    """Return the normal images under ``path``, split by ``seed`` with near-duplicates on one side, and its labelled
    test images.

    A flat folder and the MVTec AD layout are split 70 / 15 / 15 into fit, normalise and threshold. In the LOCO layout
    the threshold normal images are validation/good, and 12 % of train/good are held back for normalising; where
    validation/good holds fewer than 20 readable images or train/good fewer than 10, both folders are pooled and split
    70 / 15 / 15. A manifest's normal images are split as those of a flat folder; its anomalies are test images. Normal
    images that cannot be read are left out and listed in ``skipped``, those that the list ``exclude`` names in
    ``excluded``. Raises BadInput for a missing or empty folder, a folder of anomalies only, a folder of categories, fewer
    than 10 readable normal images, a list that names others, and a defects_config.json that is not as MVTec LOCO AD
    defines it.
    """
    if is_manifest(Path(path)):
        return _from_manifest(Path(path).resolve(), seed, exclude)
    root = _existing(Path(path))
    layout = _layout(root)
    if layout is None:
        raise BadInput(_why_no_normal_images(root))
    folder, listed = _training_images(root, layout)
    validation = [] if layout == "flat" else _normal_images(root / "validation")
    test = _test_items(root) if layout != "flat" and (root / "test").is_dir() else ()
    dataset = DataSet(root.name, layout, root, NormalSplit((), (), ()), test, saturation=_saturation(root / "defects_config.json"))
    dataset = _with_normal_images(dataset, folder, listed, validation, seed=seed, exclude=exclude)
    left_out = unread_folders(root, [*listed, *validation, *(item.path for item in test)])
    return replace(dataset, folders=(*dataset.folders, *left_out))


def _from_manifest(path: Path, seed: int, exclude: Path | None) -> DataSet:
    images = read_manifest(path)
    listed = [image.path for image in images if image.is_normal]
    anomalies = tuple(_item(image) for image in images if not image.is_normal)
    dataset = DataSet(path.stem, "manifest", path.parent, NormalSplit((), (), ()), anomalies)
    return _with_normal_images(dataset, path, listed, [], seed=seed, exclude=exclude)


def _item(image: ManifestImage) -> TestItem:
    if image.is_normal:
        return TestItem(image.path, "good", "good")
    masks = () if image.mask is None else (image.mask,)
    return TestItem(image.path, "structural", ANOMALY, masks, background=image.background)


def _with_normal_images(
    dataset: DataSet, source: Path, listed: Sequence[Path], validation: Sequence[Path], *, seed: int, exclude: Path | None
) -> DataSet:
    """Return a set with its usable normal images, split; ``source`` is what they were listed from."""
    root = dataset.root
    excluded = frozenset[Path]() if exclude is None else read_exclusions(exclude, root, [*listed, *validation])
    train, skipped, sizes = _readable([path for path in listed if path not in excluded])
    own, bad, more = _readable([path for path in validation if path not in excluded])
    skipped, sizes = skipped + bad, sizes + more
    _enough(source, len(train) + len(own), skipped, len(excluded))
    bits = significant_bits([*train, *own])
    table, unusable = usable_thumbnails([*train, *own], bits)
    skipped += unusable
    left_out = {path for path, _ in unusable}
    train, own = ([path for path in paths if path not in left_out] for paths in (train, own))
    _enough(source, len(train) + len(own), skipped, len(excluded))
    _different(source, table)
    split = _split(train, own, table, seed)
    for file, reason in skipped:
        logging.getLogger(__name__).warning("skipped %s: %s", file, reason)
    uses = (
        *_uses(root, train, "normal images for training"),
        *_uses(root, own, "normal images for the threshold" if own else "normal images"),
        *_uses(root, [path for path, _ in skipped], f"{LEFT_OUT}: cannot be used"),
        *_uses(root, sorted(excluded), f"{LEFT_OUT}: excluded by {exclude}"),
        *_item_uses(root, dataset.test),
    )
    sizes_found = dict(sizes.most_common())
    return replace(
        dataset, normal=split, skipped=tuple(skipped), sizes=sizes_found, folders=uses, bits=bits, excluded=tuple(sorted(excluded))
    )


def load_test(path: Path | str, bits: int = 16) -> DataSet:
    """Return the labelled images under ``path`` without looking at its training normal images (``normal`` is empty).

    ``bits`` is how the bundle reads 16-bit files.

    A folder without a test folder is itself one where a sub-folder is named as normal images (``good`` beside ``bad``),
    and else counts as normal images only. Raises BadInput for a missing or empty folder, and for an anomaly without a
    mask in a set that has a ground_truth folder.
    """
    if is_manifest(Path(path)):
        source = Path(path).resolve()
        items = tuple(map(_item, read_manifest(source)))
        return _checked_test(DataSet(source.stem, "manifest", source.parent, NormalSplit((), (), ()), items), bits)
    root = _existing(Path(path))
    layout = _layout(root)
    if (root / "test").is_dir():
        items = _test_items(root)
        layout = layout or ("loco" if _looks_loco(root) else "mvtec")
    elif layout == "flat" and not list_images(root):
        items = _labelled_items(root, root)
    else:
        listed = _training_images(root, layout)[1] if layout else list_images(root)
        items, layout = tuple(TestItem(file, "good", "good") for file in listed), "flat"
    if not items:
        raise BadInput(
            f"{root} holds no images to evaluate: name {LAYOUTS_HELP} with a test folder, in which sub-folders say what "
            "the images are (test/good, test/scratch)"
        )
    saturation = _saturation(root / "defects_config.json")
    result = _checked_test(DataSet(root.name, layout, root, NormalSplit((), (), ()), items, saturation=saturation), bits)
    return replace(result, folders=(*result.folders, *_unlabelled(root)))


def _checked_test(result: DataSet, bits: int) -> DataSet:
    """Return a test set whose images have ``bits``; BadInput for an anomaly without a mask where others have one."""
    warn_depth(significant_bits([item.path for item in result.test]), bits, result.root)
    items = tuple(replace(item, bits=bits) for item in result.test)
    missing = [item.path for item in items if result.has_masks and item.kind != "good" and not item.masks]
    if missing and result.layout == "manifest":
        raise BadInput(
            f"{missing[0]} has no mask in the manifest, and other anomalies have one ({len(missing)} such images): add "
            "'anomaly-mask-ref' to its line, or take it out of all"
        )
    if missing:
        raise BadInput(
            f"{missing[0]} has no mask under {result.root / 'ground_truth'} ({len(missing)} such images): add "
            f"{_mask_name(result.root, result.layout, missing[0])}, or take the ground_truth folder away"
        )
    return replace(result, test=items, folders=tuple(_item_uses(result.root, items)))


def find_categories(root: Path) -> list[Path]:
    """Return the folders directly under ``root`` that are categories of their own (they hold train/good), sorted by
    name.
    """
    return [entry for entry in sub_folders(_existing(root)) if normal_folders(entry / "train")]


def _existing(path: Path) -> Path:
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise BadInput(f"{path} {what}: name {LAYOUTS_HELP}, or a manifest ({', '.join(f'*{suffix}' for suffix in SUFFIXES)})")
    return path.resolve()


def _looks_loco(root: Path) -> bool:
    return any((root / part).exists() for part in ("defects_config.json", "validation", "test/logical_anomalies"))


def _layout(root: Path) -> Layout | None:
    if normal_folders(root / "train"):
        return "loco" if _looks_loco(root) else "mvtec"
    if (root / "train").is_dir() or (root / "test").is_dir() or named_as_anomalies(root):
        return None
    return "flat" if list_images(root) or normal_folders(root) else None


def _why_no_normal_images(root: Path) -> str:
    folders = sub_folders(root)
    categories = [entry.name for entry in find_categories(root)]
    if categories:
        return f"{root} holds the categories {', '.join(categories)}: name one of them"
    if (root / "train").is_dir() and list_nested(root / "train"):
        return f"{root / 'train'} has no folder good: put the normal images into {root / 'train' / 'good'}"
    if named_as_anomalies(root) or (root / "test").is_dir() or any(map(named_as_anomalies, folders)):
        return f"{root} holds anomalies only, and training needs good parts: name {LAYOUTS_HELP}"
    filled = [folder.name for folder in folders if list_nested(folder)]
    if filled:
        some = ", ".join(filled[:5]) + (" and more" if len(filled) > 5 else "")
        return f"{root} holds images in the folders {some} only: name one of them, or put normal images into {root / 'good'}"
    return f"{root} holds no images: name {LAYOUTS_HELP}"


def _training_images(root: Path, layout: Layout) -> tuple[Path, list[Path]]:
    """Return the folder of the normal images to train on, and the images."""
    if layout != "flat":
        return normal_folders(root / "train")[0], _normal_images(root / "train")
    direct, named = list_images(root), normal_folders(root)
    if direct and any(map(list_nested, named)):
        raise BadInput(
            f"{root} holds {len(direct)} images and the folder {named[0].name} with {len(list_nested(named[0]))}: name "
            f"{named[0]} to train on that folder, or move the others away"
        )
    return (root, direct) if direct or not named else (named[0], _normal_images(root))


def _normal_images(parent: Path) -> list[Path]:
    return sorted(path for folder in normal_folders(parent) for path in list_named(parent, folder))


def _enough(folder: Path, count: int, skipped: Sequence[tuple[Path, str]], excluded: int) -> None:
    if count < MIN_NORMAL_IMAGES <= count + excluded:
        raise BadInput(
            f"{folder} holds {count} good images without the {excluded} excluded ones; at least {MIN_NORMAL_IMAGES} are needed, "
            "so exclude fewer, or photograph more good parts"
        )
    if count == 0 and not skipped:
        raise BadInput(f"{folder} holds no images: name {LAYOUTS_HELP}")
    if count < MIN_NORMAL_IMAGES:
        more = f" ({len(skipped)} more cannot be used; the first: {skipped[0][1]})" if skipped else ""
        raise BadInput(
            f"{folder} holds {count} good images{more}; at least {MIN_NORMAL_IMAGES} are needed and 100 or more are "
            "advised, so photograph more good parts"
        )


def _different(folder: Path, table: npt.NDArray[np.float32]) -> None:
    """Refuse copies of a few images: their scores would not vary, so that no threshold could come of them."""
    distinct = len(np.unique(table, axis=0))
    if distinct < MIN_NORMAL_IMAGES:
        raise BadInput(
            f"{folder} holds {len(table)} good images, but only {distinct} that differ from each other; at least "
            f"{MIN_NORMAL_IMAGES} are needed, so photograph different good parts"
        )


def _readable(paths: Sequence[Path]) -> tuple[list[Path], list[tuple[Path, str]], Counter[str]]:
    """Return the files whose bytes are whole, the others with the reason, and the count of sizes."""

    def check(path: Path) -> str | tuple[int, int]:
        try:
            size = check_image(path)
        except BadInput as error:
            return str(error)
        if min(size) < MIN_SIDE:
            return f"{path} is {size[0]} x {size[1]} pixels; at least {MIN_SIDE} x {MIN_SIDE} are needed"
        return size

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(check, paths))
    good = [path for path, result in zip(paths, results, strict=True) if not isinstance(result, str)]
    bad = [(path, result) for path, result in zip(paths, results, strict=True) if isinstance(result, str)]
    return good, bad, Counter(f"{result[0]}x{result[1]}" for result in results if not isinstance(result, str))


def _split(train: list[Path], own: list[Path], table: npt.NDArray[np.float32], seed: int) -> NormalSplit:
    """Return the split; ``table`` f32 [N, P] holds the thumbnails of ``train``, then those of ``own``."""
    apart = len(own) >= MINIMUM_VALIDATION and len(train) >= MIN_NORMAL_IMAGES
    pooled = train if apart else train + own
    files = [[pooled[index] for index in group] for group in near_duplicate_groups(table[: len(pooled)])]
    return split_training(files, own, seed) if apart else split_all(files, seed)


def _test_items(root: Path) -> tuple[TestItem, ...]:
    return _labelled_items(root, root / "test")


def _labelled_items(root: Path, parent: Path) -> tuple[TestItem, ...]:
    """Return the images below ``parent``, whose sub-folders say what they are; deeper folders are part of the name."""
    items: list[TestItem] = []
    for folder in sub_folders(parent):
        if folder.name.casefold() == "ground_truth":
            continue
        normal = is_normal_name(folder.name)
        kind: Kind = "good" if normal else "logical" if folder.name.casefold().startswith("logical") else "structural"
        for path in list_named(parent, folder):
            defect = relative(path.parent, parent)
            items.append(TestItem(path, kind, defect, () if normal else _masks(root, defect, path.stem)))
    return tuple(items)


def _uses(root: Path, paths: Sequence[Path], use: str) -> list[FolderUse]:
    counts = Counter(relative(path.parent, root) for path in paths)
    return [FolderUse(folder, count, use) for folder, count in sorted(counts.items())]


def _item_uses(root: Path, items: Sequence[TestItem]) -> list[FolderUse]:
    counts = Counter((relative(item.path.parent, root), item.kind) for item in items)
    words = {"good": "normal images", "logical": "logical anomalies", "structural": "structural anomalies"}
    return [FolderUse(folder, count, f"test: {words[kind]}") for (folder, kind), count in sorted(counts.items())]


def _unlabelled(root: Path) -> list[FolderUse]:
    """Return the images directly in the test folder: nothing says what they are."""
    test = root / "test"
    count = len(list_images(test)) if test.is_dir() else 0
    return [FolderUse("test", count, UNLABELLED)] if count else []


MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


def _masks(root: Path, defect: str, stem: str) -> tuple[Path, ...]:
    folder = root / "ground_truth" / defect
    if (folder / stem).is_dir():  # MVTec LOCO AD: a folder of channels
        return tuple(list_images(folder / stem))
    names = (f"{stem}{ending}{suffix}" for ending in ("_mask", "") for suffix in MASK_SUFFIXES)  # MVTec AD, and others
    return next(((folder / name,) for name in names if (folder / name).is_file()), ())


def _mask_name(root: Path, layout: Layout, image: Path) -> str:
    """Return the file that would be the mask of a test image, relative to the root of the set."""
    defect = relative(image.parent, root / "test")
    end = f"{image.stem}/000.png" if layout == "loco" else f"{image.stem}_mask.png"
    return f"ground_truth/{defect}/{end}"


def _saturation(path: Path) -> dict[int, Saturation]:
    if not path.is_file():
        return {}
    advice = (
        "it must be a list of {pixel_value 1-255, saturation_threshold > 0, relative_saturation}; repair or remove it"
    )
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        table = {
            int(e["pixel_value"]): Saturation(float(e["saturation_threshold"]), bool(e["relative_saturation"]))
            for e in entries
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} cannot be used ({error!r}): {advice}") from error
    for value, entry in table.items():
        if not 1 <= value <= 255 or not entry.threshold > 0 or (entry.relative and entry.threshold > 1):
            raise BadInput(f"{path} gives pixel value {value} the saturation {entry.threshold}: {advice}")
    return table
