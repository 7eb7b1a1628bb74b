"""A frozen alignment that classifies by texts, with what a few labelled records may change of it (multimodal.md 6.19-6.22)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcl.config.prompt_tuning import (
    ClassAwareTuning,
    GoproTuning,
    LoraTuning,
    MapleTuning,
    MsgcoopTuning,
    Tuning,
)
from medcl.encoders.ecg import EcgViT
from medcl.encoders.encoded import Encoded
from medcl.encoders.image import ViT
from medcl.encoders.joint import JointEncoders
from medcl.encoders.prompts import (
    add_lora,
    lead_vectors,
    lora_targets,
    prompted_text,
    repeated,
    text_layers,
    without_lora,
)
from medcl.encoders.text import TextEncoder, Tokens
from medcl.errors import ConfigError

_NOISE = 0.02  # standard deviation of prompts that no word gives
_PROJECTED = 128


@dataclass(frozen=True)
class Told:
    """``similarity (B, T)`` of every image with every text.   ``image (B, D)``, ``text (P or B, T, D)``: their unit codes, the texts' by
    prompt, or by image where every image has its own."""

    similarity: Tensor
    image: Tensor
    text: Tensor


class Tuned(nn.Module):
    """The alignment as it is: cosines of images with texts. Of ``network`` nothing learns, and it stays in evaluation mode."""

    image_learns = False

    def __init__(self, network: JointEncoders, modality: str) -> None:
        super().__init__()
        network.requires_grad_(False)
        self.network = network
        self.modality = modality
        without_lora(self.texts)

    @property
    def texts(self) -> TextEncoder:
        found: TextEncoder = self.network.encoders["report"]  # type: ignore[assignment]
        return found

    @property
    def width(self) -> int:
        """Channels of a token of the text network."""
        return self.texts.channels

    def train(self, mode: bool = True) -> Tuned:
        super().train(mode)
        self.network.eval()
        return self

    def own_state(self) -> dict[str, Tensor]:
        """What this adds to the alignment."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("network.")}

    def forward(self, inputs: Any, texts: Tokens) -> Told:
        image = self.image_code(self.image(inputs))
        text = self.text_code(self.texts(texts).pooled)[None]
        return Told(image @ text[0].T, image, text)

    def image(self, inputs: Any, *prompts: Any) -> Encoded:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.image_learns):
            found: Encoded = self.network.encoders[self.modality](inputs, *prompts)
        return found

    def image_code(self, encoded: Encoded) -> Tensor:
        return functional.normalize(self.network.project(self.modality, encoded).float(), dim=-1)

    def text_code(self, pooled: Tensor) -> Tensor:
        return functional.normalize(self.network.project("report", Encoded(pooled)).float(), dim=-1)


class LoraTuned(Tuned):
    """Low-rank adapters in the text network and, where it is a transformer, in the image's."""

    def __init__(self, network: JointEncoders, modality: str, config: LoraTuning) -> None:
        super().__init__(network, modality)
        sizes = {"rank": config.rank, "alpha": config.alpha, "dropout": config.dropout}
        add_lora(self.texts.network, lora_targets(self.texts), **sizes)  # type: ignore[arg-type]
        encoder = network.encoders[modality]
        self.image_learns = config.image and isinstance(encoder, ViT | EcgViT)
        if self.image_learns:
            add_lora(encoder.transformer, ["inputs"], **sizes)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> LoraTuned:
        """Only the adapters' own dropout has a training mode."""
        super().train(mode)
        for name, part in self.network.named_modules():
            if "lora_dropout" in name:
                part.train(mode)
        return self


class ContextTuned(Tuned):
    """Learnable contexts ``(P, n, C)`` in the place of the first words of all texts; similarities are the mean over the P (MSGCoOp; P = 1: CoOp).

    ``leads``: what the templates say before the name of the class. The contexts begin as these words, all but the first with noise,
    further tokens as noise alone; so a single context that is no longer than the words begins where the alignment is.
    """

    def __init__(
        self, network: JointEncoders, modality: str, tokens: int, leads: Sequence[str], prompts: int = 1
    ) -> None:
        super().__init__(network, modality)
        text_layers(self.texts)
        words = lead_vectors(self.texts, leads, tokens)
        self.replaced = len(words)
        start = _NOISE * torch.randn(prompts, tokens, self.width)
        start[0, : len(words)] = 0
        start[:, : len(words)] += words
        self.context = nn.Parameter(start)

    def forward(self, inputs: Any, texts: Tokens) -> Told:
        image = self.image_code(self.image(inputs))
        count = len(texts.ids)
        context = self.context.repeat_interleave(count, 0)
        text = self.text_code(self._read(repeated(texts, len(self.context)), context)).unflatten(0, (-1, count))
        return Told((image @ text.transpose(1, 2)).mean(0), image, text)

    def _read(self, texts: Tokens, context: Tensor, deep: Sequence[Tensor] = ()) -> Tensor:
        return prompted_text(self.texts, texts, context, replaced=self.replaced, deep=deep)

    def _read_for_each(self, texts: Tokens, context: Tensor) -> Tensor:
        """Pooled features ``(B, T, C)`` of all T texts with the contexts ``(B, T, n, C)`` of every image."""
        return self._read(repeated(texts, len(context)), context.flatten(0, 1)).unflatten(0, context.shape[:2])


class MapleTuned(ContextTuned):
    """Deep prompts of the text network, and linear maps of them as prompts of the image's, layer by layer. Source: Khattak et al. 2023."""

    image_learns = True

    def __init__(self, network: JointEncoders, modality: str, config: MapleTuning, leads: Sequence[str]) -> None:
        encoder = network.encoders[modality]
        if not isinstance(encoder, ViT | EcgViT):
            raise ConfigError(
                f"method: maple puts prompts into a transformer, and the {modality} encoder of this alignment is none; use lora, msgcoop, gopro or "
                "class_aware, or align with encoder.name=" + ("ecg_vit" if modality == "ecg" else "vit")
            )
        super().__init__(network, modality, config.tokens, leads)
        depth = min(config.depth, len(text_layers(self.texts)), len(encoder.transformer.blocks))
        self.deep = nn.Parameter(_NOISE * torch.randn(depth - 1, config.tokens, self.width))
        self.couplings = nn.ModuleList(nn.Linear(self.width, encoder.channels) for _ in range(depth))

    def forward(self, inputs: Any, texts: Tokens) -> Told:
        layers = [self.context[0], *self.deep]
        prompts = [couple(layer) for couple, layer in zip(self.couplings, layers, strict=True)]
        image = self.image_code(self.image(inputs, prompts))
        context = self.context.expand(len(texts.ids), -1, -1)
        text = self.text_code(self._read(texts, context, list(self.deep)))[None]
        return Told(image @ text[0].T, image, text)


class GoproTuned(ContextTuned):
    """Prompts shifted by the style (mean and deviation of every block's tokens) and the content of the image. Source: Singha et al. 2023.

    Both shifts begin at 0. Content is ``projection`` of the image's features, which the contrast of augmented views trains too.
    """

    def __init__(self, network: JointEncoders, modality: str, config: GoproTuning, leads: Sequence[str]) -> None:
        super().__init__(network, modality, config.tokens, leads)
        channels = network.encoders[modality].channels
        self.projection = nn.Sequential(nn.Linear(channels, _PROJECTED), nn.BatchNorm1d(_PROJECTED))
        self.content = _from_zero(nn.Linear(_PROJECTED, self.width))
        self.style_norm = nn.LayerNorm(2 * channels)
        self.style = _from_zero(nn.Linear(2 * channels, self.width))

    def forward(self, inputs: Any, texts: Tokens) -> Told:
        return self.with_projection(inputs, texts)[0]

    def with_projection(self, inputs: Any, texts: Tokens) -> tuple[Told, Tensor]:
        """The same with the projections ``(B, 128)`` of the images."""
        encoded, styles = self._image_with_styles(inputs)
        image, projected = self.image_code(encoded), self.projection(encoded.pooled)
        shift = self.content(projected) + self.style(self.style_norm(styles)).mean(0)
        context = (self.context[0] + shift[:, None])[:, None].expand(-1, len(texts.ids), -1, -1)
        text = self.text_code(self._read_for_each(texts, context))
        return Told(torch.einsum("bd,btd->bt", image, text), image, text), projected

    def _image_with_styles(self, inputs: Any) -> tuple[Encoded, Tensor]:
        """And ``(L, B, 2 C)``: mean and standard deviation over the places of every block, of the last map where there are no blocks."""
        encoder, states = self.network.encoders[self.modality], []
        with ExitStack() as hooks:
            if isinstance(encoder, ViT | EcgViT):
                for block in encoder.transformer.blocks:
                    hooks.enter_context(
                        block.register_forward_hook(lambda _, __, out: states.append(out.movedim(1, 2)))
                    )
            encoded = self.image(inputs)
        if not states:
            assert encoded.local is not None
            states = [encoded.local.flatten(2)]
        return encoded, torch.stack([torch.cat([s.mean(2), (s.var(2, correction=0) + 1e-6).sqrt()], 1) for s in states])


class ClassAwareTuned(ContextTuned):
    """What a class reads in the places of an image is added to its own prompt; the places read the classes, into the image's features.

    Both readings begin at 0. Source: multimodal.md 6.22 (task-oriented mutual learning).
    """

    def __init__(self, network: JointEncoders, modality: str, config: ClassAwareTuning, leads: Sequence[str]) -> None:
        super().__init__(network, modality, config.tokens, leads)
        channels = network.encoders[modality].channels
        if self.width % config.heads or channels % config.heads:
            raise ConfigError(
                f"method.heads: {config.heads} does not divide the {self.width} channels of texts and the {channels} of the {modality}; change it"
            )
        self.class_reads = _reader(self.width, channels, config.heads)
        self.image_reads = _reader(channels, self.width, config.heads) if config.text_guided else None

    def forward(self, inputs: Any, texts: Tokens) -> Told:
        encoded = self.image(inputs)
        assert encoded.local is not None
        places = encoded.local.flatten(2).movedim(1, 2)
        with torch.no_grad():
            classes = self.texts(texts).pooled.expand(len(places), -1, -1)
        read, _ = self.class_reads(classes, places, places, need_weights=False)
        features = self._read_for_each(texts, self.context[0] + read[:, :, None])
        if self.image_reads is not None:
            encoded = encoded.shifted(self.image_reads(places, features, features, need_weights=False)[0].mean(1))
        image, text = self.image_code(encoded), self.text_code(features)
        return Told(torch.einsum("bd,btd->bt", image, text), image, text)


def _reader(width: int, read: int, heads: int) -> nn.MultiheadAttention:
    reader = nn.MultiheadAttention(width, heads, kdim=read, vdim=read, batch_first=True)
    _from_zero(reader.out_proj)
    return reader


def _from_zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def build_tuned(network: JointEncoders, modality: str, method: Tuning, leads: Sequence[str]) -> Tuned:
    """The alignment with what ``method`` adds; the global random state gives its weights. ConfigError where they do not suit."""
    if "report" not in network.encoders or modality not in network.encoders:
        raise ConfigError(f"init: this alignment has {', '.join(network.encoders)}; prompts need report and {modality}")
    match method:
        case LoraTuning():
            return LoraTuned(network, modality, method)
        case MapleTuning():
            return MapleTuned(network, modality, method, leads)
        case MsgcoopTuning():
            return ContextTuned(network, modality, method.tokens, leads, method.prompts)
        case GoproTuning():
            return GoproTuned(network, modality, method, leads)
        case ClassAwareTuning():
            return ClassAwareTuned(network, modality, method, leads)
