"""`medcl text-vocabulary`: the word pieces of a user's own texts."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from medcl.config.text import BertConfig
from medcl.encoders.text import learn_vocabulary
from medcl.errors import DataError
from medcl.files import atomic_path
from medcl.modalities.report import read_report
from medcl.modalities.report_text import clean
from medcl.records.layouts import open_data


class Vocabulary(NamedTuple):
    """What was learnt: how many pieces, of how many texts."""

    pieces: int
    texts: int


def write_vocabulary(data: Path, out: Path, size: int) -> Vocabulary:
    """Learn at most ``size`` pieces from the reports of ``data`` (or the lines of a ``.txt`` file) and write them to ``out``.

    Texts are cleaned as an alignment cleans them. Reports of records that are declared validation or test are left out. Raises
    DataError where there is no text.
    """
    texts = [text for text in map(clean, _texts(data)) if text]
    if not texts:
        raise DataError(f"{data}: holds no report to learn a vocabulary from; look at its column report or report_text")
    tokenizer = learn_vocabulary(texts, size, BertConfig().max_length)
    with atomic_path(out) as part:
        tokenizer.save(part)
    return Vocabulary(len(tokenizer), len(texts))


def _texts(data: Path) -> list[str]:
    if data.suffix == ".txt":
        return read_report(data).splitlines()
    records = open_data(data).records
    return [read_report(record.report) for record in records if record.report and record.split in (None, "train")]
