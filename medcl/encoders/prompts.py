"""Learnable tokens inside a frozen text network, and low-rank adapters (multimodal.md 3.1 and 6.19)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from medcl.encoders.text import TextEncoder, Tokenizer, Tokens, TokenTable, needed, pool
from medcl.errors import ConfigError

_PROJECTIONS = ("query", "value", "q_lin", "v_lin", "q_proj", "v_proj")
"""Query and value projections, as networks of `transformers` call them."""


def prompted_text(
    encoder: TextEncoder,
    tokens: Tokens,
    context: Tensor,
    *,
    replaced: int = 0,
    deep: Sequence[Tensor] = (),
    after: int = 0,
) -> Tensor:
    """Pooled features ``(B, C)`` of ``tokens`` with the vectors ``context (B, n, C)`` after the class token and ``after`` tokens more.

    ``replaced``: tokens of the text that follow there, which they take the place of.   ``deep``: ``(n, C)`` for each further layer,
    in which they take the place of what the layer before made of the prompts. With n = 0 and nothing replaced the features are
    those of ``encoder`` itself. Raises ConfigError where prompts and text are longer than the network reads.
    """
    rows, n = context.shape[:2]
    begin = _begin(encoder.tokenizer, tokens) + after
    words = encoder.network.get_input_embeddings()(tokens.ids)  # type: ignore[operator]
    length = words.shape[1] + n - replaced
    if length > encoder.tokenizer.max_length:
        raise ConfigError(
            f"method.tokens: {n} prompt tokens and a text of {length - n} are longer than the {encoder.tokenizer.max_length} tokens that the "
            "text network reads; lower method.tokens or shorten the template"
        )

    def joined(of: Tensor, between: Tensor) -> Tensor:
        return torch.cat([of[:, :begin], between, of[:, begin + replaced :]], 1)

    valid = joined(tokens.valid, tokens.valid.new_ones(rows, n))
    given: dict[str, Tensor] = {"inputs_embeds": joined(words, context), "attention_mask": valid.long()}
    if encoder.segments > 1:
        given["token_type_ids"] = joined(tokens.segment, tokens.segment.new_zeros(rows, n))
    with ExitStack() as hooks:
        for layer, prompt in zip(text_layers(encoder)[1:], deep, strict=False):
            hooks.enter_context(layer.register_forward_pre_hook(_replacing(prompt, begin)))
        states: Tensor = encoder.network(**given).last_hidden_state
    return pool(states, valid, encoder.pooling)


def _replacing(prompt: Tensor, begin: int) -> Any:
    def hook(layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        states = given[0]
        ours = prompt.to(states.dtype).expand(len(states), -1, -1)
        return (torch.cat([states[:, :begin], ours, states[:, begin + len(prompt) :]], 1), *given[1:])

    return hook


def text_layers(encoder: TextEncoder) -> list[nn.Module]:
    """The layers of the text network, first to last. Raises ConfigError for a network without."""
    count = getattr(getattr(encoder.network, "config", None), "num_hidden_layers", None)
    for part in encoder.network.modules():
        if isinstance(part, nn.ModuleList) and len(part) == count:
            return list(part)
    raise ConfigError(
        "method: the alignment's text encoder has no layers that prompts or adapters could change (a token_table); use one with a bert "
        "or a pretrained_text"
    )


def lead_vectors(encoder: TextEncoder, texts: Sequence[str], most: int) -> Tensor:
    """``(k, C)``: the embeddings of the first words that all ``texts``, the beginnings of templates, share; at most ``most`` of them."""
    tokens = encoder.tokenizer(list(texts))
    begin, special = _begin(encoder.tokenizer, tokens), set(encoder.tokenizer.special.values())
    ids = tokens.ids[:, begin:]
    shared: list[int] = []
    for column in ids.T[:most].tolist():
        if len(set(column)) > 1 or column[0] in special:
            break
        shared.append(column[0])
    found: Tensor = encoder.network.get_input_embeddings()(tokens.ids.new_tensor(shared)).detach()  # type: ignore[operator]
    return found


def _begin(tokenizer: Tokenizer, tokens: Tokens) -> int:
    """1 where texts begin with a class token, else 0."""
    return int(tokens.ids[0, 0].item() == tokenizer.special.get("cls", -1))


def repeated(tokens: Tokens, times: int) -> Tokens:
    """All texts, ``times`` times one after the other."""
    return tokens[torch.arange(len(tokens.ids), device=tokens.ids.device).repeat(times)]


def add_lora(network: nn.Module, names: Sequence[str], *, rank: int, alpha: float, dropout: float) -> None:
    """Put adapters ``y = W x + alpha / rank B A x`` on the linear layers called ``names``, in place; A random, B = 0; the rest is frozen.

    Source: Hu et al. 2022, as `peft` has it.
    """
    library = needed("peft")
    settings = library.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(names))
    library.inject_adapter_in_model(settings, network)


def lora_targets(encoder: TextEncoder) -> list[str]:
    """Names of the query and value projections of the text network. ConfigError where there are none."""
    text_layers(encoder)
    found = {name.rpartition(".")[2] for name, _ in encoder.network.named_modules()} & set(_PROJECTIONS)
    if not found:
        raise ConfigError(f"method: the text network has no projections called {', '.join(_PROJECTIONS)} to adapt")
    return sorted(found)


def merge_lora(network: nn.Module) -> None:
    """Add the adapters in ``network`` to the layers that they sit on, and take them away, in place."""
    if not any("lora_" in name for name, _ in network.named_parameters()):
        return
    layer_kind = needed("peft.tuners.lora").LoraLayer
    for name, part in list(network.named_modules()):
        if isinstance(part, layer_kind):
            part.merge()
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, part.get_base_layer())


def without_lora(encoder: TextEncoder) -> None:
    """The same text network with the adapters of its alignment merged, in place."""
    if isinstance(encoder.network, TokenTable) or not hasattr(encoder.network, "merge_and_unload"):
        return
    encoder.network = encoder.network.merge_and_unload()
