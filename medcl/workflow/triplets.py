"""Triplets of a record's caption, a paraphrase and a wrong text: does the alignment read meaning or words?"""

from __future__ import annotations

from pathlib import Path

from medcl.errors import ConfigError, DataError
from medcl.evaluation.joint_codes import JointCodes
from medcl.evaluation.triplets import TripletScores, score_triplets, triplet_hits
from medcl.records.csv_tables import line_of, read_table
from medcl.workflow.alignment_data import AlignmentData
from medcl.workflow.alignment_texts import text_of
from medcl.workflow.joint_space import JointSpace


def triplet_scores(
    path: Path, space: JointSpace, data: AlignmentData, codes: JointCodes, *, seed: int = 0
) -> TripletScores:
    """Score the triplets of ``path`` whose records ``codes`` hold, each seen by its first modality that is no report.

    A CSV with the columns ``record``, ``paraphrase``, ``wrong``, and where there are some ``caption`` (default: the record's report) and
    ``kind`` (what the wrong text changed). Raises DataError naming file and line of what is missing.
    """
    report = space.card.modalities.report
    image = next((name for name in codes.modalities if name != "report"), None)
    if report is None or image is None:
        raise ConfigError("triplets: need reports and another modality, and these weights do not align both")
    there = {name for name, found in zip(codes.ids, codes.present[image].tolist(), strict=True) if found}
    rows, problems = [], []
    columns = ("record", "paraphrase", "wrong")
    for number, row in enumerate(read_table(path, columns, ("caption", "kind")).to_dict("records")):
        if missing := [name for name in columns if not row[name].strip()]:
            problems.append(f"{path}:{line_of(number)}: has no {', '.join(missing)}")
        elif row["record"] in there:
            caption = row.get("caption") or text_of(report, data.manifest.by_id(row["record"]), data.captions)
            rows.append((row["record"], row.get("kind") or "all", caption, row["paraphrase"], row["wrong"]))
    if problems:
        raise DataError(problems)
    if not rows:
        raise DataError(f"{path}: none of its records is among the {len(codes.ids)} that are scored and has a {image}")
    ids, kinds, *texts = (list(column) for column in zip(*rows, strict=True))
    own = codes.select(ids)
    caption, paraphrase, wrong = space.texts([text for column in texts for text in column]).chunk(3)
    hits = triplet_hits(own.codes[image], caption, paraphrase, wrong)
    return score_triplets(hits, kinds, own.subjects, seed=seed)
