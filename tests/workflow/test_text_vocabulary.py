"""`medcl text-vocabulary`: pieces of a user's reports, without those of held-out records."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from medcl.cli.main import app
from medcl.encoders.text import Tokenizer
from medcl.errors import DataError
from medcl.records.manifest import Manifest
from medcl.records.record import Record
from medcl.workflow.text_vocabulary import write_vocabulary

pytest.importorskip("tokenizers", reason="needs the multimodal extra")


def test_it_reads_training_reports_and_writes_what_a_bert_reads(tmp_path: Path) -> None:
    texts = {"train": "Pneumothorax on the left.", "test": "Zebra."}
    records = [
        Record(f"{split}{n}", f"{split}{n}", report=text, split=split) for split, text in texts.items() for n in (0, 1)
    ]  # type: ignore[arg-type]
    Manifest(tuple(records)).write(tmp_path / "records.jsonl")
    out = tmp_path / "vocabulary.json"
    done = CliRunner().invoke(
        app, ["text-vocabulary", str(tmp_path / "records.jsonl"), "--size", "200", "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "of 2 texts" in done.output
    pieces = Tokenizer.read(out, 32).backend.get_vocab()
    assert {"[CLS]", "[MASK]", "pneumothorax", "left"} <= set(pieces)
    assert not any("z" in piece for piece in pieces)


def test_lines_of_a_text_file_will_do_and_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("Clear lungs.\n\nAn effusion.\n")
    assert write_vocabulary(tmp_path / "texts.txt", tmp_path / "a.json", 100).texts == 2
    (tmp_path / "texts.txt").write_text("\n")
    with pytest.raises(DataError, match=r"texts\.txt: holds no report to learn a vocabulary from"):
        write_vocabulary(tmp_path / "texts.txt", tmp_path / "b.json", 100)
