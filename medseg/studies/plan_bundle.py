"""A plan as a bundle: `bundle.yaml` with the reason beside each value, MONAI's files, and a page for a person."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from medseg.atomic import atomic_folder, atomic_write
from medseg.bundle import generate, library, workflow
from medseg.bundle.networks import resolve
from medseg.data.datalist import Datalist
from medseg.data.fingerprint import Fingerprint
from medseg.errors import counted, shown
from medseg.reports.tables import Table
from medseg.studies import fingerprint_page
from medseg.studies.plan import Plan
from medseg.studies.plan_asked import Asked
from medseg.studies.plan_rules import Chosen

__all__ = ["ASKED", "lines", "name_of", "plan_for", "text", "values_table", "write", "write_configuration"]

_HEAD = """\
# Planned by `medseg plan` for {name} ({number}). Each value says why it is so; change what you know
# better, then write MONAI's files anew: medseg bundle build FOLDER
"""

ASKED = "docs/asked.json"
"""What a plan was to keep to, where that may change."""
_UNKNOWN = "not stated"


def write(
    plan: Plan, data: Datalist, folder: Path, name: str | None = None, *, asked: Mapping[str, Any] | None = None
) -> Path:
    """Write a plan as a bundle that is there whole or not at all, whenever the process is killed.

    Args:
        plan: what to write.
        data: the datalist that it was made for.
        folder: new folder of the bundle.
        name: of the model; ``None`` for the folder's.
        asked: what the plan was to keep to, which is written beside it where it may be asked for again.

    Returns:
        The folder.

    Raises:
        BundleError: if the folder exists and is not empty.
    """
    library.refuse_taken(folder)
    with atomic_folder(folder) as begun:
        (begun / "docs").mkdir()
        with atomic_write(begun / "docs" / "README.md") as temporary:
            temporary.write_text(_page(plan, data), encoding="utf-8")
        if asked is not None:
            with atomic_write(begun / ASKED) as temporary:
                temporary.write_text(json.dumps(asked), encoding="utf-8")
        fingerprint_page.write(plan.found, begun / "docs")
        write_configuration(plan, data, begun, name)
        library.remember(begun)
    return folder


def write_configuration(plan: Plan, data: Datalist, folder: Path, name: str | None = None) -> None:
    """Write what a plan says to programs: `bundle.yaml` and MONAI's files.

    Args:
        plan: what to write.
        data: the datalist that it was made for.
        folder: which is there.
        name: as in `write`.
    """
    with atomic_write(folder / "bundle.yaml") as temporary:
        temporary.write_text(text(plan, data, name), encoding="utf-8")
    generate.build(folder)


def plan_for(
    data: Datalist,
    changes: Mapping[str, Any],
    *,
    network: str | None = None,
    run: Mapping[str, Any] | None = None,
    **wanted: Any,
) -> Plan:
    """Plan with single keys of the configuration settled; what a training would refuse is refused before measuring.

    Args:
        data: the datalist.
        changes: values by key, see `Asked.of`.
        network: see `make_plan`.
        run: what the training will be told, ``changes`` among it, to be refused as it would be; ``None`` where it is
            not known.
        wanted: see `make_plan`.

    Raises:
        MedsegError: naming the key that no plan or no training can keep to.
    """
    from medseg.studies import plan

    told = {**changes, "fold": "all"} if run is None and changes else run

    def accept(expected: Plan) -> None:
        if told is None:
            return
        with TemporaryDirectory() as temporary:
            sketch = Path(temporary) / "plan"
            sketch.mkdir()
            write_configuration(expected, data, sketch, name_of(expected, data))
            workflow.refuse(sketch, data=data.path, overrides=told)

    asked = Asked.of(changes, network or plan.DEFAULT_NETWORK)
    return plan.make_plan(data, network=network, asked=asked, accept=accept, **wanted)


def name_of(plan: Plan, data: Datalist) -> str:
    """Return what a model is called that no person has named: its network and its data, never as a bundle of ours."""
    words = f"{str(plan.network.value['name']).rpartition('.')[2]}_{data.name}".lower()
    plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()  # an ö is an o, not a gap
    name = re.sub(r"[^a-z0-9]+", "_", plain)[:64].strip("_")
    return f"{name}_planned" if name in library.names() else name


def text(plan: Plan, data: Datalist, name: str | None = None) -> str:
    """Return `bundle.yaml`."""
    kind = resolve(str(plan.network.value["name"])).__name__
    lines = [_HEAD.format(name=_comment(data.name), number=_labelled(plan.found))]
    lines += [] if name is None else [_line("name", name)]
    lines += [
        _line("title", f"{kind}, {data.name}"),
        _line("task", f"Segmentation of {', '.join(_objects(plan.found))}"[:200]),
        _line("description", f"{kind} planned for {data.name} by its fingerprint"),
        _line("data_source", data.source or _UNKNOWN),
        _line("data_type", "volumes" if plan.found.dimensions == 3 else "pictures"),
        _line("modality", ", ".join(data.modality) or _UNKNOWN),
        _line("classes", data.class_names),
    ]
    if data.colours:
        lines.append(_line("colours", {str(index): colour for index, colour in data.colours.items()}))
    if data.codes:
        lines.append(_line("codes", {str(index): code for index, code in data.codes.items()}))
    if data.ignore_index is not None:
        lines.append(_line("ignored", data.ignore_index))
    lines += [f"# {_comment(plan.network.why)}\n", _line("network", plan.network.value)]
    if plan.scores:
        lines += ["# surfaces in mm; the tolerance is of NSD\n", _line("scores", plan.scores)]
    if plan.postprocess:
        lines.append(_line("postprocess", plan.postprocess))
    for section, values in (("input", plan.input), ("inference", plan.inference), ("train", plan.train)):
        lines.append(f"{section}:\n")
        lines += list(_section(values))
    return "".join(lines)


def _objects(found: Fingerprint) -> Sequence[str]:
    return [name for index, name in enumerate(found.classes) if index != found.background] or found.classes


def _labelled(found: Fingerprint) -> str:
    return counted(len(found.cases), "labelled image")


def _section(values: Mapping[str, Chosen]) -> Iterator[str]:
    for key, chosen in values.items():
        yield f"  # {_comment(chosen.why)}\n"
        if isinstance(chosen.value, list) and chosen.value and isinstance(chosen.value[0], Mapping):
            yield f"  {key}:\n" + "".join(f"  - {_flow(item)}\n" for item in chosen.value)
        else:
            yield f"  {_line(key, chosen.value)}"


def _line(key: str, value: Any) -> str:
    return f"{key}: {_flow(value)}\n"


def _flow(value: Any) -> str:
    import yaml

    dumped: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    return dumped.removesuffix("\n").removesuffix("\n...")


def _comment(value: str) -> str:
    return shown(value).replace("\n", " ")


def lines(plan: Plan) -> str:
    """Return every value of the plan for a terminal: the value, and below it why it is so."""
    return "\n".join(f"{key}: {value}\n    {why}" for key, value, why in values_table(plan).rows)


def values_table(plan: Plan) -> Table:
    """Return every value of the plan and why it is so."""
    rows: list[Sequence[Any]] = [["network", _flow(plan.network.value), plan.network.why]]
    for section, values in (("input", plan.input), ("inference", plan.inference), ("train", plan.train)):
        rows += [[f"{section} {key}", _flow(chosen.value), chosen.why] for key, chosen in values.items()]
    return Table(["key", "value", "why"], rows)


def _page(plan: Plan, data: Datalist) -> str:
    steps = f"about {plan.steps} steps in {counted(plan.minutes, 'minute')} on {plan.device}"
    gmacs = plan.measured.macs / 1e9
    tried = "\n".join(f"- {_comment(line)}" for line in plan.measured.tried)
    return "\n".join(
        [
            f"# A plan for {shown(data.name)}",
            "",
            f"Planned for {steps}; a patch takes {gmacs:.3g} billion multiply-adds.",
            f"Its data: `{plan.found.data[:16]}`. Train it, score it, use it:",
            "",
            "```",
            "medseg train FOLDER_OF_THIS_BUNDLE --data FOLDER_OF_THE_DATALIST --output RUN",
            "medseg evaluate RUN",
            "medseg predict RUN IMAGES MASKS",
            "```",
            "",
            *(["## What is doubtful", "", *(f"- {_comment(line)}" for line in plan.doubts), ""] if plan.doubts else []),
            f"What was measured of the data: [{fingerprint_page.PAGE}]({fingerprint_page.PAGE}).",
            "",
            "## What was chosen, and why",
            "",
            values_table(plan).to("markdown"),
            "## What was tried on the device",
            "",
            tried,
            "",
        ]
    )
