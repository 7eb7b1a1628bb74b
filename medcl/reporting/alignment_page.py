"""Pages of what a finished alignment does: retrieval, searches, zero-shot classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from medcl import __version__
from medcl.evaluation.directions import EVERY, Direction, RetrievalReport
from medcl.evaluation.inversion import InversionScores
from medcl.evaluation.methods import MethodScores, shown
from medcl.evaluation.modality_gap import ModalityGap
from medcl.evaluation.triplets import TripletScores
from medcl.reporting.page import write_html


@dataclass(frozen=True)
class Exhibit:
    """A record or a query as a page shows it: its id, pictures, the beginning of its text, and what else is to be said."""

    id: str
    pictures: Sequence[Markup] = ()
    text: str = ""
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Example:
    """What was asked, and what was found for it, the best first."""

    title: str
    query: Exhibit
    hits: Sequence[Exhibit]


@dataclass(frozen=True)
class PageTable:
    """A table of text; the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


def write_alignment_page(
    target: Path,
    title: str,
    command: str,
    tables: Sequence[PageTable] = (),
    examples: Sequence[Example] = (),
    notes: Sequence[str] = (),
) -> None:
    """Write one self-contained page to ``target``."""
    write_html(
        target,
        "alignment.html.j2",
        title=title,
        command=command,
        tables=tables,
        examples=examples,
        notes=notes,
        simulated=False,
        version=__version__,
    )


def write_retrieval_page(target: Path, report: RetrievalReport, examples: Sequence[Example], weights: str) -> None:
    """The page of `medcl retrieve`."""
    write_alignment_page(
        target,
        f"Retrieval by {weights}",
        "retrieve",
        retrieval_tables(report),
        examples,
        report.notes,
    )


def methods_table(scores: MethodScores, first: str) -> PageTable:
    """The table of ``scores``; ``first`` says what a row is. Its caption is the notes."""
    rows = [
        [name, *(shown(found[metric]) if metric in found else "\N{EN DASH}" for metric in scores.metrics)]
        for name, found in scores.scores.items()
    ]
    caption = " ".join(["Means with 95 % intervals over subjects.", *scores.notes])
    return PageTable(scores.title, [first, *scores.metrics.values()], rows, caption)


def retrieval_tables(report: RetrievalReport) -> list[PageTable]:
    """The tables of a report: all directions, what records have, the gaps, the triplets, the inversions."""
    whole = [each for each in report.directions if each.pattern == EVERY]
    parts = [each for each in report.directions if each.pattern != EVERY]
    tables = [_directions(whole, f"Retrieval on {report.records} records (part: {report.part})")]
    if parts:
        tables.append(_directions(parts, "The same by what the query's record has"))
    if report.gaps:
        tables.append(_gaps(report.gaps))
    if report.triplets is not None:
        tables.append(_triplets(report.triplets))
    if report.inversion:
        tables.append(_inversion(report.inversion))
    return tables


def _directions(directions: Sequence[Direction], title: str) -> PageTable:
    columns = ["direction", "records", "queries", "gallery", "R@1", "R@5", "R@10", "chance R@1 / 5 / 10", "MRR", "mAP"]
    columns += ["nDCG@10", "median rank", "ties", "seen in pretraining"]
    rows = []
    for each in directions:
        scores = each.scores
        chance = " / ".join(f"{scores.chance[depth]:.3g}" for depth in (1, 5, 10))
        rows.append(
            [
                f"{each.name} ({each.similarity})",
                each.pattern,
                str(scores.queries) + (f" ({scores.without_relevant} without)" if scores.without_relevant else ""),
                str(scores.gallery),
                *(shown(scores.recall[depth]) for depth in (1, 5, 10)),
                chance,
                shown(scores.mrr),
                shown(scores.mean_average_precision),
                shown(scores.ndcg[10]),
                f"{scores.median_rank:g}",
                str(scores.ties),
                f"{each.seen[0]} queries, {each.seen[1]} of the gallery",
            ]
        )
    caption = (
        "Means with 95 % intervals over subjects. R@k: share of queries with an item that belongs to them among the first k; chance: "
        "the same for a random order of this gallery. Without: queries to which nothing in the gallery belongs."
    )
    return PageTable(title, columns, rows, caption)


def _gaps(gaps: Mapping[str, ModalityGap]) -> PageTable:
    columns = [
        "modalities",
        "centroid distance",
        "centroid cosine",
        "cosine of pairs",
        "within first",
        "within second",
        "told apart",
    ]
    rows = [
        [
            name,
            *(f"{value:.3f}" for value in (gap.centroid_distance, gap.centroid_cosine, gap.paired_cosine)),
            *(f"{value:.3f}" for value in (gap.first_cosine, gap.second_cosine)),
            "\N{EN DASH}" if gap.separability is None else shown(gap.separability),
        ]
        for name, gap in gaps.items()
    ]
    caption = "Without a gap: distance 0, cosine of the centroids 1, and a linear classifier tells the modalities apart in half of the cases."
    return PageTable("Gaps between modalities", columns, rows, caption)


def _inversion(scores: Sequence[InversionScores]) -> PageTable:
    rows = [
        [
            f"{each.modality} by way of {each.through}",
            str(each.records),
            shown(each.within),
            shown(each.across),
            shown(each.difference),
            f"{each.cosine:.3f}",
        ]
        for each in scores
    ]
    caption = (
        "Mean average precision of finding the other records that belong to one: by its own code, and by its code inverted into the other modality. "
        "Where the inverted codes find more, similarities within the modality are the weaker ones: add a term of the modality with itself, such as "
        "{objective: {name: nt_xent}, between: [radiograph, radiograph]}. Cosine: of a code with its inversion; far below 1 the inversion failed."
    )
    return PageTable("Inversion", ["records", "queries", "own code", "inverted", "difference", "cosine"], rows, caption)


def _triplets(scores: TripletScores) -> PageTable:
    rows = [["all", shown(scores.image_to_text), shown(scores.text_only)]]
    rows += [
        [kind, shown(value), shown(scores.text_only_by_kind[kind])]
        for kind, value in scores.image_to_text_by_kind.items()
        if kind != "all"
    ]
    caption = "Shares of triplets whose caption and paraphrase are both nearer to the record, or to each other, than the wrong text is."
    return PageTable("Triplets", ["changed", "record to text", "text only"], rows, caption)
