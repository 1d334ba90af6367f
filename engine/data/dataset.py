"""What training reads: documents or windows of ctx_len, padded batches, an endless data order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.contract.settings import TrainSettings
from engine.data.binidx import cut_numbers
from engine.data.documents import Documents, Stored
from engine.data.masks import MARKER_TOKENS, Turns, trained_mask, turns_of

IGNORED = -100
"""A target that is not learned; torch's cross_entropy skips it by default."""

_CHUNK = 1 << 24
_FAR = 4  # windows behind a document's beginning, from where on its turns are remembered
_TURNS = 1 << 22  # that are remembered at most, in nine bytes each

Pair = tuple[Tensor, Tensor]


def cut(data: Documents, settings: TrainSettings) -> PadDataset | WindowDataset:
    """The training examples of the data: windows for get, else documents; only is pad with one a step."""
    kind = WindowDataset if settings.dataload == "get" else PadDataset
    return kind(data, settings.ctx_len, settings.loss_mask, settings.mask_ids)


class PadDataset(Dataset[Pair]):
    """Item i is document i: (inputs, targets), int64 [t] each with t <= ctx_len, targets one ahead.

    A document of a single token has nothing to predict and gives t = 0.
    """

    def __init__(
        self, data: Documents, ctx_len: int, loss_mask: str, mask_ids: tuple[int, int] | None = None
    ) -> None:
        self.data, self.ctx_len, self.loss_mask, self.mask_ids = data, ctx_len, loss_mask, mask_ids
        self.sizes = data.sizes

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Pair:
        length = self.ctx_len + 1
        document = self.data.item(index)
        tokens = document[:length].astype(np.int64)
        learned = trained_mask(document, self.loss_mask, self.mask_ids, length)
        targets = np.where(learned, tokens, IGNORED)
        return torch.from_numpy(tokens[:-1]), torch.from_numpy(targets[1:])

    def __getitems__(self, chosen: Sequence[int]) -> Pair:
        """These documents as a batch (inputs, targets) [B, T], T the longest but at least 1; padded with
        0 and IGNORED. The loader of torch asks for batches by this name."""
        index = np.asarray(chosen)
        tokens, there = _gather(
            self.data, self.data.places(index), np.minimum(self.sizes[index], self.ctx_len + 1)
        )
        learned = there
        if self.loss_mask not in ("none", "pad"):
            sizes = np.minimum(self.sizes[index], self.ctx_len + 1 + MARKER_TOKENS)
            seen, known = _gather(self.data, self.data.places(index), sizes)
            starts = _starts(sizes)
            turns = turns_of(
                seen[known], starts, self.loss_mask, self.mask_ids, lambda i: self.data.item(chosen[i])
            )
            mask = np.zeros_like(known)
            mask[known] = turns.between(0, int(starts[-1]))
            learned = mask[:, : there.shape[1]]
        return _batch(tokens, there, learned)


class WindowDataset(Dataset[Pair]):
    """Item i is window i of the documents laid end to end: (inputs, targets), int64 [t], t <= ctx_len.

    Window i has the tokens from i * ctx_len to (i + 1) * ctx_len, both included, so that every token
    but the first is a target exactly once; only the last window may be shorter. What is learned of a
    document is decided from its own beginning, wherever the window cuts it.
    """

    def __init__(
        self, data: Documents, ctx_len: int, loss_mask: str, mask_ids: tuple[int, int] | None = None
    ) -> None:
        self.data, self.ctx_len, self.loss_mask, self.mask_ids = data, ctx_len, loss_mask, mask_ids
        self._starts = _starts(data.sizes)
        self._known: dict[int, Turns] = {}
        self._room = _TURNS
        begins = np.arange(0, max(data.tokens - 1, 1), ctx_len)
        self.sizes: NDArray[np.int64] = np.minimum(begins + ctx_len + 1, data.tokens) - begins

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Pair:
        length = int(self.sizes[index]) - 1
        inputs, targets = self.__getitems__([index])
        return inputs[0, :length], targets[0, :length]

    def __getitems__(self, chosen: Sequence[int]) -> Pair:
        """These windows as a batch, as `PadDataset.__getitems__`."""
        index = np.asarray(chosen)
        begins, lengths = index * self.ctx_len, self.sizes[index]
        there = np.arange(max(2, lengths.max())) < lengths[:, None]
        stream = np.minimum(begins[:, None] + np.arange(there.shape[1]), self.data.tokens - 1)
        items = np.searchsorted(self._starts, stream, "right") - 1
        tokens = self.data.stream[self.data.places(items) + stream - self._starts[items]]
        learned = there
        if self.loss_mask not in ("none", "pad"):
            learned = np.zeros_like(there)
            learned[there] = self._learned(begins, begins + lengths)
        return _batch(tokens, there, learned)

    def _learned(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which tokens are learned between these places of the documents laid end to end, window by window.

        Each piece of a document is read from the document's beginning, but of a window that lies far inside a
        long one its turns are remembered, or reading all its windows would take the square of its length.
        """
        firsts = np.searchsorted(self._starts, begins, "right") - 1
        counts = np.searchsorted(self._starts, ends, "left") - firsts
        row, items = np.repeat(np.arange(len(begins)), counts), _ranges(firsts, counts)
        start, size = self._starts[items], self.data.sizes[items]
        here, until = np.maximum(begins[row] - start, 0), np.minimum(ends[row] - start, size)
        far = here > _FAR * self.ctx_len
        known = np.where(far, 0, np.minimum(until + MARKER_TOKENS, size))
        pieces, places = _starts(known), _starts(until - here)
        near = turns_of(
            self.data.stream[_ranges(self.data.places(items), known)], pieces, self.loss_mask, self.mask_ids,
            lambda i: self.data.item(int(items[i])),
        ).between(0, int(pieces[-1]))  # fmt: skip
        learned = np.zeros(int(places[-1]), np.bool_)
        shown = np.where(far, 0, until - here)
        learned[_ranges(places[:-1], shown)] = near[_ranges(pieces[:-1] + here, shown)]
        for i in np.flatnonzero(far):  # one a window at most
            learned[places[i] : places[i + 1]] = self._turns(int(items[i])).between(here[i], until[i])
        return learned

    def _turns(self, item: int) -> Turns:
        """The turns of a document, those used last remembered."""
        turns = self._known.pop(item, None)
        if turns is None:
            document = self.data.item(item)
            turns = turns_of(
                document, np.array([0, len(document)]), self.loss_mask, self.mask_ids, lambda _: document
            )
            self._room -= len(turns.places)
            while self._room < 0 and self._known:
                self._room += len(self._known.pop(next(iter(self._known))).places)
        self._known[item] = turns
        return turns


def _starts(sizes: NDArray[Any]) -> NDArray[np.int64]:
    """Where things of these sizes begin end to end, and where the last one ends [n + 1]."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def _ranges(begins: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers from each of these on, as many as its length, end to end."""
    starts = _starts(lengths)
    numbers: NDArray[np.int64] = np.repeat(begins - starts[:-1], lengths) + np.arange(starts[-1])
    return numbers


def _gather(
    data: Documents, begins: NDArray[np.int64], lengths: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Tokens [B, T] from these places of the stream on, and which belong to the row; T is 2 or more."""
    columns = np.arange(max(2, int(lengths.max())))
    places = np.minimum(begins[:, None] + columns, len(data.stream) - 1)
    return data.stream[places], columns < lengths[:, None]


def _batch(tokens: NDArray[Any], there: NDArray[np.bool_], learned: NDArray[np.bool_]) -> Pair:
    """(inputs, targets) [B, T - 1] of tokens [B, T]."""
    inputs = np.where(there[:, 1:], tokens[:, :-1], 0).astype(np.int64)
    targets = np.where(learned[:, 1:] & there[:, 1:], tokens[:, 1:].astype(np.int64), IGNORED)
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def as_batch(batch: Any) -> Pair:
    """What `__getitems__` gave: for a loader, which would else make a batch of it once more."""
    found: Pair = batch
    return found


class EpochSampler(Sampler[int]):
    """The data order is one endless sequence: a fresh permutation of all documents for each pass.

    An epoch takes its `epoch_steps * micro_bsz` places of that sequence, so epochs go on where the
    one before ended, and any of them follows from (seed, epoch) alone.
    """

    def __init__(self, documents: int, micro_bsz: int, epoch_steps: int, seed: int) -> None:
        self.documents, self.seed = documents, seed
        self.length = micro_bsz * epoch_steps
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        position, end = self.epoch * self.length, (self.epoch + 1) * self.length
        while position < end:
            number, start = divmod(position, self.documents)
            part = self._pass(number)[start : start + end - position]
            yield from part.tolist()
            position += len(part)

    def _pass(self, number: int) -> NDArray[np.int64]:
        seeds = np.random.SeedSequence((self.seed, number))
        return np.random.Generator(np.random.PCG64(seeds)).permutation(self.documents)


@dataclass(frozen=True)
class DataNumbers:
    """What a run finds in its data; names as in the plan of a run, lengths in tokens."""

    documents: int
    tokens: int
    cut_documents: int
    cut_tokens: int


def plan_numbers(data: Documents, ctx_len: int, dataload: str = "pad") -> DataNumbers:
    """Counts documents and tokens and what ctx_len cuts off (windows lose nothing); reads sizes only."""
    lost = (0, 0) if dataload == "get" else cut_numbers(data.sizes, ctx_len)
    return DataNumbers(len(data), data.tokens, *lost)


def check_vocabulary(data: Stored, vocab_size: int) -> None:
    """Raises UserError naming the first document with an id that the model has no row for.

    One sequential read of the tokens, none at all when its dtype cannot hold such an id.
    """
    limits = np.iinfo(data.dtype)
    if limits.max < vocab_size and limits.min == 0:
        return
    for start in range(0, data.tokens, _CHUNK):
        chunk = data.stream[start : start + _CHUNK]
        if chunk.max() < vocab_size and chunk.min() >= 0:
            continue
        place = int(np.argmax((chunk < 0) | (chunk >= vocab_size)))
        raise UserError(
            _(
                "data_file: item {item} of {source} has the token id {token}, but the model's "
                "vocabulary has {vocab_size} entries (0 to {last}).",
                item=data.item_at(start + place),
                source=data.source,
                token=chunk[place],
                vocab_size=vocab_size,
                last=vocab_size - 1,
            ),
            _("Convert the data with the tokenizer of this model."),
        )
