"""`medcl explain`: what the similarity of a record's image or ECG and a text rests on, as a page."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medcl.config.explain import ExplainConfig
from medcl.encoders.attentions import places_of, recorded_attentions, text_with_attentions
from medcl.encoders.ecg import EcgViT
from medcl.encoders.encoded import Encoded
from medcl.encoders.joint import JointEncoders
from medcl.encoders.text import TextEncoder, Tokens, pool
from medcl.errors import DataError, WeightsError
from medcl.evaluation.relevance import (
    Deletion,
    attention_relevance,
    deletion_check,
    image_relevance,
    token_relevance,
)
from medcl.files import atomic_path
from medcl.inference.predictor import torch_device
from medcl.preparation.build import build_store
from medcl.preparation.signals import prepare_signals
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.parts import Parts
from medcl.records.record import Record
from medcl.reporting.explanation import Explained, write_explanation
from medcl.runs import RunFolder
from medcl.weights.alignment import AlignmentFile, find_alignment
from medcl.workflow.alignment_data import AlignmentData, Preparations, has, images_of
from medcl.workflow.alignment_texts import captions_of, text_of
from medcl.workflow.labelled_records import plain_section, stream_for

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Explanation:
    """``similarity``: cosine of image and text.   ``image``: relevance on the grid of patches, or of steps of the ECG, ``(*G)``.
    ``text`` (T,): of the tokens.   ``deletion``: of image tokens."""

    similarity: float
    image: Tensor
    text: Tensor
    deletion: Deletion


def explain(config: ExplainConfig) -> RunFolder:
    """Explain one record and write ``page.html`` and ``relevance.npz`` into ``config.out``."""
    run = RunFolder(config.out)
    with run.started("explain", config, seed=config.seed):
        alignment = find_alignment(config.weights)
        manifest = open_data(config.data)
        record = manifest.by_id(config.record)
        modality = _modality(config, alignment, record)
        text = _text(config, alignment, record)
        device = torch_device(config.device)
        network = (
            alignment.network().requires_grad_(True).to(device)
        )  # attentions of frozen networks need a graph as well
        inputs = _inputs(alignment, manifest, record, modality, run.path / "prepared", config.seed).to(device)
        assert network.tokenizer is not None
        tokens = network.tokenizer([text])
        found = explained(network, modality, inputs, tokens.to(device), rankings=config.rankings, seed=config.seed)
        check = found.deletion
        run.record(
            record=record.id,
            modality=modality,
            similarity=round(found.similarity, 6),
            deletion_area=round(check.area, 6),
            random_deletion_area=round(check.random_area, 6),
            falls_faster_than=check.better,
        )
        log.info("cosine %.3f; it falls faster than in %.0f %% of random orders", found.similarity, 100 * check.better)
        _write_arrays(run.path / "relevance.npz", found)
        write_explanation(
            run,
            Explained(
                record=record.id,
                modality=modality,
                weights=str(config.weights),
                similarity=found.similarity,
                picture=inputs[0].cpu().numpy(),
                relevance=_on_input(network, modality, found.image, inputs.shape[2:]).numpy(),
                tokens=[network.tokenizer.backend.id_to_token(int(number)) for number in tokens.ids[0]],
                shades=found.text.tolist(),
                deletion=check,
                simulated=bool(manifest.provenance.get("simulated")),
            ),
        )
    return run


def explained(
    network: JointEncoders, modality: str, inputs: Tensor, tokens: Tokens, *, rankings: int = 20, seed: int = 0
) -> Explanation:
    """Relevance of the places of ``inputs (1, ...)`` for the text ``tokens`` (1, T), and of its tokens for them. ConfigError without attention."""
    network.eval()
    encoder, texts = network.encoders[modality], network.encoders["report"]
    assert isinstance(texts, TextEncoder)
    with recorded_attentions(encoder) as attentions:  # type: ignore[arg-type]
        encoded = encoder(inputs)
    words, of_text = text_with_attentions(texts, tokens)
    image, text = _unit(network.project(modality, encoded)), _unit(network.project("report", Encoded(words)))
    score = (image * text).sum()
    by_place = image_relevance(attention_relevance(score, attentions))[0]
    read = _read_out(tokens, texts)
    by_token = token_relevance(attention_relevance(score, of_text), read, _special(tokens, texts))[0]
    text = text.detach()

    def similarity(kept: Tensor) -> Tensor:
        mask = _on_input(network, modality, kept.to(inputs.device).float(), inputs.shape[2:], smooth=False)[:, None] > 0
        neutral = inputs.mean(tuple(range(2, inputs.ndim)), keepdim=True)
        return (_unit(network(modality, torch.where(mask, inputs, neutral))) * text).sum(1)

    deletion = deletion_check(similarity, by_place, rankings=rankings, seed=seed)
    assert encoded.local is not None
    return Explanation(
        float(score.detach()), by_place.detach().cpu().view(encoded.local.shape[2:]), by_token.detach().cpu(), deletion
    )


def _unit(codes: Tensor) -> Tensor:
    return functional.normalize(codes.float(), dim=-1)


def _on_input(
    network: JointEncoders, modality: str, values: Tensor, shape: torch.Size | tuple[int, ...], *, smooth: bool = True
) -> Tensor:
    """``values`` of tokens, ``(*G)`` or rows ``(K, N)`` of them, on the samples or pixels ``shape`` of the input.

    Tokens of an ECG are drawn at the five samples in their middle; the samples before and after are the nearest token's.
    """
    encoder = network.encoders[modality]
    steps = places_of(encoder)  # type: ignore[arg-type]
    if isinstance(encoder, EcgViT):
        rows = values.reshape(1, -1) if smooth else values
        edge = (shape[0] // steps[0] - rows.shape[-1]) // 2
        whole = functional.pad(rows[:, None], (edge, shape[0] // steps[0] - rows.shape[-1] - edge), mode="replicate")
        found = whole.repeat_interleave(steps[0], 2)[:, 0]
        found = functional.pad(found, (0, shape[0] - found.shape[1]), mode="replicate")
        return found[0] if smooth else found
    grid = [size // step for size, step in zip(shape, steps, strict=True)]
    maps = values.reshape(-1, 1, *grid)
    way: dict[str, Any] = {"mode": "nearest"}
    if smooth:
        way = {"mode": "bilinear" if len(grid) == 2 else "trilinear", "align_corners": False}
    found = functional.interpolate(maps, size=list(shape), **way)[:, 0]
    return found[0] if smooth else found


def _read_out(tokens: Tokens, encoder: TextEncoder) -> Tensor:
    """``(B, T)``: the weight of every token in the pooled features: what pooling makes of the identity."""
    identity = torch.eye(tokens.ids.shape[1], device=tokens.ids.device).expand(len(tokens.ids), -1, -1)
    return pool(identity, tokens.valid, encoder.pooling)


def _special(tokens: Tokens, encoder: TextEncoder) -> Tensor:
    numbers = [number for role, number in encoder.tokenizer.special.items() if role != "unknown"]
    return ~tokens.valid | torch.isin(tokens.ids, tokens.ids.new_tensor(numbers))


def _modality(config: ExplainConfig, alignment: AlignmentFile, record: Record) -> str:
    names = alignment.card.modalities.names
    if "report" not in names:
        raise WeightsError(
            f"{config.weights}: aligned {', '.join(names)}; an explanation needs report and an image or ECG"
        )
    found = [name for name in ("radiograph", "volume", "ecg") if name in names and has(record, name)]
    wanted = config.modality or (found[0] if found else "image or ECG that the alignment knows")
    if wanted not in found:
        raise DataError(
            f"record {record.id}: has no {wanted}; of {', '.join(names)} it has {', '.join(found) or 'none'}"
        )
    return wanted


def _text(config: ExplainConfig, alignment: AlignmentFile, record: Record) -> str:
    report = alignment.card.modalities.report
    assert report is not None
    text = config.text or text_of(report, record, captions_of(report, [record]))
    if not text.strip():
        raise DataError(f"record {record.id}: has no report to compare with; give one with --text")
    return text


def _inputs(
    alignment: AlignmentFile, manifest: Manifest, record: Record, modality: str, folder: Path, seed: int
) -> Tensor:
    """What the encoder sees of the record alone, prepared as its training records were."""
    section, images, signals = getattr(alignment.card.modalities, modality), {}, None
    if modality == "ecg":
        signals = prepare_signals([record], section, folder / "ecg")
    else:
        files = images_of(record)[:1] if modality == "radiograph" else record.volume
        only = replace(manifest, records=(replace(record, volume=files, label=None),))
        images[modality] = build_store(only, alignment.card.recipes[modality], folder / modality)
    data = AlignmentData(
        manifest, Parts((), (), (), (), (), ()), Preparations(alignment.card.recipes, alignment.labs), images, signals
    )
    stream = stream_for(modality, plain_section(section), data, [record.id], seed)
    found: Tensor = stream.render(stream.plan([record.id], [0], 1), "cpu")[0]
    return found


def _write_arrays(path: Path, found: Explanation) -> None:
    stream = io.BytesIO()
    check = found.deletion
    np.savez(
        stream,
        image=found.image.numpy(),
        text=found.text.numpy(),
        deletion_shares=check.shares.numpy(),
        deletion=check.curve.numpy(),
        random_deletion=check.random.numpy(),
    )
    with atomic_path(path) as part:
        part.write_bytes(stream.getvalue())
