"""Folders of images and folders of labels, or both in one folder, paired by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medseg.errors import shown
from medseg.importers.folder import Folder, stem_of
from medseg.importers.layout import Case, Found, ImportingError, Layout, Options, Question
from medseg.importers.pairing import Rule, is_image, is_label, rules_between, rules_within, words

__all__ = ["Pairs", "of_no_part", "split_of"]

_SPLITS = {
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "ts"), "test"),
}


def split_of(place: str) -> str:
    """Return the list that the folders of a relative path name: training, where they name none."""
    return next((_SPLITS[word] for word in words(place) if word in _SPLITS), "training")


def of_no_part(cases: Sequence[Case]) -> list[Case]:
    """Return cases for training where names put none there: then it is the name of the whole folder, not of a part.

    Args:
        cases: those without a label stay where they are.
    """
    labelled = [case for case in cases if case.label is not None]
    if any(case.split == "training" for case in labelled):
        return list(cases)
    return [replace(case, split="training") if case.label is not None else case for case in cases]


class Pairs(Layout):
    """Images and masks by name; the rules are shown, and a rule that fits twice is refused."""

    name = "pairs"
    looks_for = "images and labels whose names agree but for an end such as _mask, in one folder or two"
    rank = 2

    def recognise(self, folder: Folder) -> str | None:
        """Look for rules that pair."""
        try:
            rules = self._rules(folder, Options())
        except Question:  # which a person may have answered
            return "names of images and labels agree in more than one way"
        return "names of images and labels agree" if rules else None

    def read(self, folder: Folder, options: Options) -> Found:
        """Pair by the rules; what is left of images in a test folder has no label."""
        rules = self._rules(folder, options)
        if not rules:
            raise ImportingError(
                f"{shown(folder.root)}: no image and label share a name; say how they go together with --images, "
                "--labels, --image-suffix and --label-suffix"
            )
        _refuse_ambiguous(rules, folder)
        found = Found(self.name, "names agree", [])
        found.notes = [f"pairs {rule.describe(folder.root)}" for rule in rules]
        labelled: set[Path] = set()
        several = len({rule.images for rule in rules}) > 1
        for rule in rules:
            found.left_out |= dict.fromkeys(rule.twins, "another file has the same name but for its format or zeros")
            place = folder.rel(rule.images)
            split = split_of(place) if split_of(place) == split_of(folder.rel(rule.labels)) else "training"
            for image, label in rule.pairs.values():
                stem = stem_of(image).removesuffix(rule.image.after)
                name = f"{place}/{stem}" if several and place != "." else stem
                found.cases.append(Case(name, (image,), label, split))
                labelled.add(image)
        found.cases = of_no_part(found.cases)
        self._unlabelled(folder, rules, found, labelled)
        return found

    def _unlabelled(self, folder: Folder, rules: list[Rule], found: Found, labelled: set[Path]) -> None:
        folders = {rule.images for rule in rules}
        labels = {label for rule in rules for _, label in rule.pairs.values()}
        for path in folder.images:
            if path in labelled or path in labels or path in found.left_out:
                continue
            if any(path.parent == rule.labels and rule.label.key(stem_of(path)) is not None for rule in rules):
                found.left_out[path] = "a label without an image"
            elif path.parent in folders:
                found.left_out[path] = "an image without a label"
            elif split_of(place := folder.rel(path.parent)) == "test" and not is_label(place):
                found.cases.append(Case(f"{place}/{stem_of(path)}", (path,), None, "test"))

    def _rules(self, folder: Folder, options: Options) -> list[Rule]:
        by_folder: dict[Path, list[Path]] = defaultdict(list)
        for path in folder.images:
            by_folder[path.parent].append(path)
        below: dict[Path, list[Path]] = defaultdict(list)
        for place in by_folder:
            for above in (place, *place.parents):
                below[above].append(place)
        suffixes = (options.image_suffix, options.label_suffix)
        images, labels = (
            folder.subfolder(named, option) if named else None
            for named, option in ((options.images, "images"), (options.labels, "labels"))
        )
        rules = []
        for place, files in by_folder.items():
            if labels is not None and not place.is_relative_to(labels):
                continue
            if images is None or place.is_relative_to(images):
                rules += rules_within(files, *suffixes)
            ends = options.label_suffix and any(stem_of(path).endswith(options.label_suffix) for path in files)
            if labels is None and not (is_label(folder.rel(place)) or ends):
                continue
            rule = _nearest(place, by_folder, below, folder, suffixes, images)
            if rule is not None:
                rules.append(rule)
        return sorted(rules, key=lambda rule: (str(rule.images), str(rule.labels), rule.label.after))


def _nearest(
    labels: Path,
    by_folder: dict[Path, list[Path]],
    below: dict[Path, list[Path]],
    folder: Folder,
    suffixes: tuple[str | None, str | None],
    images: Path | None,
) -> Rule | None:
    """Return the best rule with the nearest folder of images that has any; two equally good ones are refused."""
    tried, rules = {labels}, list[Rule]()
    for above in (labels, *labels.parents):
        for place in below.get(above, ()):
            if place in tried:
                continue
            tried.add(place)
            if is_label(folder.rel(place)) if images is None else not place.is_relative_to(images):
                continue
            rule = rules_between(by_folder[place], by_folder[labels], *suffixes)
            if rule is not None:
                rules.append(rule)
        if rules:
            break
    else:
        return None
    rules.sort(key=lambda rule: -len(rule.pairs))
    rules = [rule for rule in rules if is_image(folder.rel(rule.images))] or rules
    if len(rules) > 1 and len(rules[1].pairs) == len(rules[0].pairs):
        several = "; ".join(rule.describe(folder.root) for rule in rules)
        raise Question(f"{shown(folder.root)}: pairs are ambiguous ({several}); name one with --images", "images")
    return rules[0]


def _refuse_ambiguous(rules: list[Rule], folder: Folder) -> None:
    """Refuse an image that has two labels."""
    labels: dict[Path, Rule] = {}
    for rule in rules:
        for image, label in rule.pairs.values():
            other = labels.setdefault(image, rule)
            if other is not rule:
                fitting = [r for r in rules if any(i == image for i, _ in r.pairs.values())]
                several = "; ".join(each.describe(folder.root) for each in fitting)
                how = "--label-suffix" if label.parent == other.labels else "--labels"
                way = rule.label.after if how == "--label-suffix" else folder.rel(rule.labels)
                raise Question(
                    f"{shown(folder.root)}: {shown(folder.rel(image))} has several labels ({several}); say which "
                    f"counts, such as {how} {shown(way)}",
                    how[2:].replace("-", "_"),
                )
