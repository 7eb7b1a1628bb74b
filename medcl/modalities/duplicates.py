"""Texts that say the same: in one batch they are false negatives, across splits they leak."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

_WORD = re.compile(r"\d+(?:\.\d+)+|[^\W_]+")
_ROWS = 1024  # of the similarity matrix at a time
MOST_PAIRS = 50_000_000
"""Pairs of texts that :func:`shared_texts` compares, which takes minutes."""


def normalised(text: str) -> str:
    """``text`` without what does not change its meaning: case, punctuation, white space, de-identified blanks.

    A decimal point between digits does change it and stays.
    """
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def text_digest(text: str) -> str:
    """SHA-256 of the normalised text, in hexadecimal."""
    return hashlib.sha256(normalised(text).encode()).hexdigest()


class SharedTexts(NamedTuple):
    """Which of N texts ``first`` say what one of M texts ``second`` says.

    ``first`` (N,) bool.   ``partner`` (M,): the place among ``first`` of the text most alike, -1 for none.   ``near``: whether nearly
    equal texts were looked for, not only equal ones.
    """

    first: Bool[np.ndarray, " N"]
    partner: Int64[np.ndarray, " M"]
    near: bool


def shared_texts(
    first: Sequence[str], second: Sequence[str], similarity: float | None = 0.9, most_pairs: int = MOST_PAIRS
) -> SharedTexts:
    """Texts that stand on both sides, equal once normalised or (with a ``similarity``) as alike as :func:`near_duplicates` says.

    More than ``most_pairs`` pairs of different texts are not compared; then equal texts alone are found. Texts without a word are alike to none.
    """
    one, other = ([normalised(text) for text in texts] for texts in (first, second))
    places: dict[str, int] = {}
    for place, text in enumerate(one):
        if text:
            places.setdefault(text, place)
    others = list(dict.fromkeys(filter(None, other)))
    nearest = {text: places[text] for text in others if text in places}
    hit = set(nearest)
    near = similarity is not None and len(places) * len(others) <= most_pairs
    if near and places and others:
        assert similarity is not None
        both = _vectors([*places, *others])
        texts = list(places)
        for start in range(0, len(others), _ROWS):
            block = (both[len(texts) + start : len(texts) + start + _ROWS] @ both[: len(texts)].T).tocsr()
            block.data[block.data < similarity - 1e-9] = 0
            block.eliminate_zeros()
            hit.update(texts[column] for column in np.unique(block.indices))
            for row in np.flatnonzero(np.diff(block.indptr)):
                inside = slice(block.indptr[row], block.indptr[row + 1])
                best = block.indices[inside][block.data[inside].argmax()]
                nearest.setdefault(others[start + row], places[texts[best]])
    return SharedTexts(
        np.array([text in hit for text in one], bool),
        np.array([nearest.get(text, -1) for text in other], np.int64),
        near,
    )


def _vectors(plain: Sequence[str]) -> sparse.csr_matrix:
    return TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), lowercase=False).fit_transform(plain).tocsr()


def near_duplicates(
    texts: Sequence[str], similarity: float = 0.9
) -> tuple[Int64[np.ndarray, "P 2"], Float64[np.ndarray, " P"]]:
    """Pairs (i < j) of texts whose cosine of character 3- to 5-gram TF-IDF is at least ``similarity``, and those cosines.

    The weights come from ``texts`` themselves, so a pair's cosine depends on the collection. Texts without a word are alike to
    none. Time is quadratic in the number of texts, memory is not. Raises ValueError for a similarity outside (0, 1].
    """
    if not 0 < similarity <= 1:
        raise ValueError(f"similarity must be in (0, 1], not {similarity}")
    plain = [normalised(text) for text in texts]
    if not any(plain):
        return np.empty((0, 2), np.int64), np.empty(0)
    vectors = _vectors(plain)
    pairs, cosines = [], []
    for start in range(0, len(plain), _ROWS):
        block = (vectors[start : start + _ROWS] @ vectors.T).tocoo()
        row, column = block.row.astype(np.int64) + start, block.col.astype(np.int64)
        near = (column > row) & (block.data >= similarity - 1e-9)  # equal texts reach 1 but for rounding
        pairs.append(np.stack([row[near], column[near]], axis=1))
        cosines.append(block.data[near])
    found, value = np.concatenate(pairs), np.minimum(np.concatenate(cosines), 1.0)
    order = np.lexsort((found[:, 1], found[:, 0]))
    return found[order], value[order]


def text_groups(texts: Sequence[str], similarity: float | None = None) -> Int64[np.ndarray, " N"]:
    """A group number for every text, from 0 in the order in which groups appear.

    Texts that are equal once normalised share a group; with a ``similarity`` those that a chain of near duplicates
    (:func:`near_duplicates`) links do so too. Texts without a word are groups of their own: nothing says that they agree.
    """
    digests = [text_digest(text) if normalised(text) else f"empty {n}" for n, text in enumerate(texts)]
    number = {digest: n for n, digest in enumerate(dict.fromkeys(digests))}
    groups = np.array([number[digest] for digest in digests], np.int64)
    if similarity is None or not len(groups):
        return groups
    first = np.unique(groups, return_index=True)[1]
    pairs, _ = near_duplicates([texts[n] for n in first], similarity)
    links = sparse.coo_matrix((np.ones(len(pairs)), pairs.T), shape=(len(first), len(first)))
    merged = sparse.csgraph.connected_components(links, directed=False)[1]
    _, where, inverse = np.unique(merged[groups], return_index=True, return_inverse=True)
    return np.argsort(np.argsort(where))[inverse].astype(np.int64)
