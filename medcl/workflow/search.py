"""`medcl retrieve --query`: a text or a file in, the records that go best with it out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from medcl.config.alignment_use import RetrieveConfig
from medcl.errors import ConfigError
from medcl.evaluation.joint_codes import JointCodes
from medcl.evaluation.neighbours import nearest
from medcl.files import write_json
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.record import Record
from medcl.records.single import modality_of_file, record_of_file
from medcl.reporting.alignment_page import Example, Exhibit, write_alignment_page
from medcl.workflow.alignment_data import AlignmentData
from medcl.workflow.examples import exhibit
from medcl.workflow.joint_space import JointSpace, ids_of
from medcl.workflow.retrieve import read_codes


@dataclass(frozen=True)
class Hit:
    """A record of the gallery: its cosine with the query, and whether the weights saw it in pretraining."""

    record: str
    cosine: float
    seen_in_pretraining: bool


@dataclass(frozen=True)
class SearchResult:
    """``hits``: the best first.   ``asked``: modality of the query.   ``gallery``: modality and number of what was searched."""

    asked: str
    gallery: str
    size: int
    hits: tuple[Hit, ...]


def search(config: RetrieveConfig) -> SearchResult:
    """The ``config.top`` records whose gallery modality is nearest to ``config.query`` by cosine; exact, all are compared.

    A query that names a file with an ending that medcl knows is that file, anything else a text. The gallery is
    ``config.galleries``, by default images for a text, else reports. Raises ConfigError where the weights do not read such a query.
    """
    assert config.query is not None
    space = JointSpace.of(config)
    record = _record(config.query, space)
    asked = next((name for name in space.modalities if getattr(record, name)), "report") if record else "report"
    gallery = _gallery(config, space, asked)
    codes, manifest = _codes(config, space)
    held = codes.present[gallery].nonzero().flatten()
    if not len(held):
        raise ConfigError(f"galleries: no record of part {config.part} has a {gallery}")
    query, shown = _query(config.query, record, asked, space)
    found = nearest(query, codes.codes[gallery][held], config.top)
    ids = [codes.ids[int(held[row])] for row in found.index[0].tolist()]
    with space.opened_few(manifest.select(ids)) as data:
        seen = space.seen(data, ids)
        hits = tuple(Hit(*row) for row in zip(ids, found.cosine[0].tolist(), seen, strict=True))
        result = SearchResult(asked, gallery, len(held), hits)
        if config.out is not None:
            _write(config.out, result, shown, data)
    return result


def _codes(config: RetrieveConfig, space: JointSpace) -> tuple[JointCodes, Manifest]:
    """Codes of what is searched, and its records; those of a file are all searched, and nothing else is prepared."""
    if config.codes is not None:
        return read_codes(config.codes, space), open_data(config.data.path, config.data.labels)
    with space.opened(config.data, config.part) as data:
        return space.codes(data, ids_of(data, config.part)), data.manifest


def _write(out: Path, result: SearchResult, query: Exhibit, data: AlignmentData) -> None:
    write_json(out, {"format": "medcl search 1", **asdict(result)})
    exhibits = []
    for rank, hit in enumerate(result.hits, 1):
        remarks = [f"{rank}. cosine {hit.cosine:.3f}", *(["seen in pretraining"] if hit.seen_in_pretraining else [])]
        exhibits.append(exhibit(data.manifest.by_id(hit.record), data, remarks=remarks))
    write_alignment_page(
        out.with_suffix(".html"),
        f"The {len(result.hits)} of {result.size} records nearest to the query",
        "retrieve",
        examples=[Example(f"{result.asked} \N{RIGHTWARDS ARROW} {result.gallery}", query, exhibits)],
    )


def _record(query: str, space: JointSpace) -> Record | None:
    """The file that ``query`` names as a record of one modality; None for a text. Raises ConfigError where there is no such file."""
    path = Path(query)
    try:
        there = path.is_file()
    except OSError:  # a text too long for a name
        there = False
    modality = modality_of_file(path, space.modalities) if there or " " not in query else None
    if modality is None:
        return None
    if not there:
        raise ConfigError(f"query: {query}: no such file; a text must not end like a file name")
    space.require([modality], "query")
    return replace(record_of_file(path, modality), id="query", subject="query")


def _gallery(config: RetrieveConfig, space: JointSpace, asked: str) -> str:
    space.require([asked], "query")
    if config.galleries is not None:
        if len(config.galleries) > 1:
            raise ConfigError(f"galleries: a search is of one modality, not of {', '.join(config.galleries)}")
        space.require(config.galleries, "galleries")
        return config.galleries[0]
    others = [name for name in space.modalities if name != asked]
    return "report" if "report" in others else others[0]


def _query(text: str, record: Record | None, asked: str, space: JointSpace) -> tuple[Tensor, Exhibit]:
    """The code (1, D) of the query, and how a page shows it."""
    if record is None:
        return space.texts([text]), Exhibit("the query", text=text)
    with space.opened_few(Manifest((record,))) as data:
        codes = space.codes(data, [record.id], modalities=[asked], title="query")
        if not bool(codes.present[asked][0]):
            raise ConfigError(f"query: {text}: holds no {asked} that could be read")
        return torch.as_tensor(codes.codes[asked]), exhibit(data.records([record.id])[0], data)
