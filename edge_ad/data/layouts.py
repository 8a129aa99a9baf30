"""Folder layouts: a flat folder of goods, MVTec AD and MVTec LOCO AD."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edge_ad.data.images import check_image, list_images
from edge_ad.data.near_duplicates import near_duplicate_groups, thumbnails
from edge_ad.data.splits import MINIMUM_GOODS, GoodsSplit, split_all, split_training
from edge_ad.errors import BadInput

__all__ = ["DataSet", "GoodsSplit", "Saturation", "TestItem", "find_categories", "load_dataset", "load_test"]

Layout = Literal["flat", "mvtec", "loco"]
Kind = Literal["good", "logical", "structural"]

MINIMUM_VALIDATION = 20
"""Validation folders with fewer goods than this are too small for a threshold: all goods are split anew instead."""

LAYOUTS_HELP = "a folder of good images, or one with train/good (MVTec AD or MVTec LOCO AD layout)"


@dataclass(frozen=True)
class Saturation:
    """How much of a defect must be found for it to count as found: a share of its area, or an area in pixels."""

    threshold: float
    relative: bool


@dataclass(frozen=True)
class TestItem:
    """One labelled image of the test split; ``masks`` holds one file for each defect channel, empty where there is
    none.
    """

    __test__ = False  # the name is not a test case's

    path: Path
    kind: Kind
    defect: str
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True)
class DataSet:
    """What a folder holds.

    ``skipped`` lists goods that cannot be read, each with the reason. ``sizes`` counts the goods by "WIDTHxHEIGHT" in
    pixels. ``saturation`` maps a pixel value of the masks to its saturation threshold (empty: every defect must be
    found whole).
    """

    name: str
    layout: Layout
    root: Path
    goods: GoodsSplit
    test: tuple[TestItem, ...]
    skipped: tuple[tuple[Path, str], ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    saturation: Mapping[int, Saturation] = field(default_factory=dict)

    @property
    def has_masks(self) -> bool:
        """Whether the set marks its defects: then every anomaly must have a mask."""
        return self.layout != "flat" and (self.root / "ground_truth").is_dir()


def load_dataset(path: Path | str, seed: int = 0) -> DataSet:
    """Return the goods under ``path``, split by ``seed`` with near-duplicates on one side, and its labelled test
    images.

    A flat folder and the MVTec AD layout are split 70 / 15 / 15 into fit, normalise and threshold. In the LOCO layout
    the threshold goods are validation/good, and 12 % of train/good are held back for normalising; where
    validation/good holds fewer than 20 readable images or train/good fewer than 10, both folders are pooled and split
    70 / 15 / 15. Goods that cannot be read are left out and listed in ``skipped``. Raises BadInput for a missing or
    empty folder, a folder of anomalies only, a folder of categories, fewer than 10 readable goods, and a
    defects_config.json that is not as MVTec LOCO AD defines it.
    """
    root = _existing(Path(path))
    layout = _layout(root)
    if layout is None:
        raise BadInput(_why_no_goods(root))
    folder = _goods_folder(root, layout)
    train, skipped, sizes = _readable(list_images(folder))
    own: list[Path] = []
    if (root / "validation" / "good").is_dir() and layout != "flat":
        own, bad, more = _readable(list_images(root / "validation" / "good"))
        skipped, sizes = skipped + bad, sizes + more
    _enough(folder, len(train) + len(own), len(skipped))
    goods, undecodable = _split(train, own, seed)
    _enough(folder, len(train) + len(own) - len(undecodable), len(skipped) + len(undecodable))
    for file, reason in skipped + undecodable:
        logging.getLogger(__name__).warning("skipped %s: %s", file, reason)
    return DataSet(
        name=root.name,
        layout=layout,
        root=root,
        goods=goods,
        test=_test_items(root) if layout != "flat" and (root / "test").is_dir() else (),
        skipped=tuple(skipped + undecodable),
        sizes=dict(sizes.most_common()),
        saturation=_saturation(root / "defects_config.json"),
    )


def load_test(path: Path | str) -> DataSet:
    """Return the labelled images under ``path`` without looking at its training goods (``goods`` is empty).

    A folder without a test folder counts as goods only. Raises BadInput for a missing or empty folder, and for an
    anomaly without a mask in a set that has a ground_truth folder.
    """
    root = _existing(Path(path))
    layout = _layout(root)
    if (root / "test").is_dir():
        items = _test_items(root)
        layout = layout or ("loco" if _looks_loco(root) else "mvtec")
    else:
        folder = _goods_folder(root, layout) if layout else root
        items, layout = tuple(TestItem(file, "good", "good") for file in list_images(folder)), "flat"
    if not items:
        raise BadInput(f"{root} holds no images to evaluate: name {LAYOUTS_HELP} with a test folder")
    found = DataSet(
        name=root.name,
        layout=layout,
        root=root,
        goods=GoodsSplit((), (), ()),
        test=items,
        saturation=_saturation(root / "defects_config.json"),
    )
    missing = [item.path for item in items if found.has_masks and item.kind != "good" and not item.masks]
    if missing:
        raise BadInput(
            f"{missing[0]} has no mask under {root / 'ground_truth'} ({len(missing)} such images): add "
            f"ground_truth/{missing[0].parent.name}/{missing[0].stem}/000.png, or take the ground_truth folder away"
        )
    return found


def find_categories(root: Path) -> list[Path]:
    """Return the folders directly under ``root`` that are categories of their own (they hold train/good), sorted by
    name.
    """
    return sorted(entry for entry in _existing(root).iterdir() if (entry / "train" / "good").is_dir())


def _existing(path: Path) -> Path:
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise BadInput(f"{path} {what}: name {LAYOUTS_HELP}")
    return path.resolve()


def _looks_loco(root: Path) -> bool:
    return any((root / part).exists() for part in ("defects_config.json", "validation", "test/logical_anomalies"))


def _layout(root: Path) -> Layout | None:
    if (root / "train" / "good").is_dir():
        return "loco" if _looks_loco(root) else "mvtec"
    if (root / "train").is_dir() or (root / "test").is_dir() or _named_as_anomalies(root):
        return None
    return "flat" if list_images(root) or (root / "good").is_dir() else None


def _named_as_anomalies(folder: Path) -> bool:
    name, parent = folder.name.lower(), folder.parent.name.lower()
    if name.endswith(("_anomalies", "_anomaly")) or name in (
        "anomalies",
        "anomaly",
        "ground_truth",
        "defects",
        "bad",
        "ng",
    ):
        return True
    return parent == "ground_truth" or (parent == "test" and name != "good")


def _why_no_goods(root: Path) -> str:
    folders = [entry for entry in sorted(root.iterdir()) if entry.is_dir()]
    categories = [entry.name for entry in find_categories(root)]
    if categories:
        return f"{root} holds the categories {', '.join(categories)}: name one of them"
    anomalies = _named_as_anomalies(root) or (root / "test").is_dir() or any(map(_named_as_anomalies, folders))
    if anomalies:
        return f"{root} holds anomalies only, and training needs good parts: name {LAYOUTS_HELP}"
    return f"{root} holds no images: name {LAYOUTS_HELP}"


def _goods_folder(root: Path, layout: Layout) -> Path:
    if layout != "flat":
        return root / "train" / "good"
    return root if list_images(root) else root / "good"


def _enough(folder: Path, count: int, skipped: int) -> None:
    if count + skipped == 0:
        raise BadInput(f"{folder} holds no images: name {LAYOUTS_HELP}")
    if count < MINIMUM_GOODS:
        unreadable = f" ({skipped} more cannot be read)" if skipped else ""
        raise BadInput(
            f"{folder} holds {count} good images{unreadable}; at least {MINIMUM_GOODS} are needed and 100 or more are "
            "advised, so photograph more good parts"
        )


def _readable(paths: Sequence[Path]) -> tuple[list[Path], list[tuple[Path, str]], Counter[str]]:
    """Return the files whose bytes are whole, the others with the reason, and the count of sizes."""

    def check(path: Path) -> str | tuple[int, int]:
        try:
            return check_image(path)
        except BadInput as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(check, paths))
    good = [path for path, result in zip(paths, results, strict=True) if not isinstance(result, str)]
    bad = [(path, result) for path, result in zip(paths, results, strict=True) if isinstance(result, str)]
    return good, bad, Counter(f"{result[0]}x{result[1]}" for result in results if not isinstance(result, str))


def _split(train: list[Path], own: list[Path], seed: int) -> tuple[GoodsSplit, list[tuple[Path, str]]]:
    """Return the split, and the files that turned out not to decode."""
    apart = len(own) >= MINIMUM_VALIDATION and len(train) >= MINIMUM_GOODS
    pooled = train if apart else train + own
    table, failed = thumbnails(pooled)
    groups = [[index for index in group if index not in failed] for group in near_duplicate_groups(table)]
    files = [[pooled[index] for index in group] for group in groups if group]
    split = split_training(files, own, seed) if apart else split_all(files, seed)
    return split, [(pooled[index], reason) for index, reason in sorted(failed.items())]


def _test_items(root: Path) -> tuple[TestItem, ...]:
    items: list[TestItem] = []
    for folder in sorted(entry for entry in (root / "test").iterdir() if entry.is_dir()):
        kind: Kind = "structural"
        if folder.name in ("good", "logical_anomalies"):
            kind = "good" if folder.name == "good" else "logical"
        for path in list_images(folder):
            items.append(
                TestItem(path, kind, folder.name, _masks(root, folder.name, path.stem) if kind != "good" else ())
            )
    return tuple(items)


def _masks(root: Path, defect: str, stem: str) -> tuple[Path, ...]:
    folder = root / "ground_truth" / defect
    if (folder / stem).is_dir():  # MVTec LOCO AD: a folder of channels
        return tuple(list_images(folder / stem))
    single = folder / f"{stem}_mask.png"  # MVTec AD
    return (single,) if single.is_file() else ()


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
