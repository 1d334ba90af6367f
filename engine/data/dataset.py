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
from engine.data.masks import trained_mask

IGNORED = -100
"""A target that is not learned; torch's cross_entropy skips it by default."""

_CHUNK = 1 << 24

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
            learned = np.zeros_like(there)
            for row, item in enumerate(chosen):
                mask = trained_mask(self.data.item(item), self.loss_mask, self.mask_ids, self.ctx_len + 1)
                learned[row, : len(mask)] = mask
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
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(data.sizes, dtype=np.int64)])
        begins = np.arange(0, max(data.tokens - 1, 1), ctx_len)
        self.sizes: NDArray[np.int64] = np.minimum(begins + ctx_len + 1, data.tokens) - begins

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Pair:
        begin = index * self.ctx_len
        end = begin + int(self.sizes[index])
        first = int(np.searchsorted(self._starts, begin, "right")) - 1
        last = int(np.searchsorted(self._starts, end, "left"))
        tokens, targets = zip(*(self._part(i, begin, end) for i in range(first, last)), strict=True)
        inputs, wanted = np.concatenate(tokens), np.concatenate(targets)
        return torch.from_numpy(inputs[:-1]), torch.from_numpy(wanted[1:])

    def __getitems__(self, chosen: Sequence[int]) -> Pair:
        """These windows as a batch, as `PadDataset.__getitems__`."""
        index = np.asarray(chosen)
        begins, lengths = index * self.ctx_len, self.sizes[index]
        there = np.arange(max(2, lengths.max())) < lengths[:, None]
        if self.loss_mask in ("none", "pad"):
            stream = np.minimum(begins[:, None] + np.arange(there.shape[1]), self.data.tokens - 1)
            items = np.searchsorted(self._starts, stream, "right") - 1
            tokens = self.data.stream[self.data.places(items) + stream - self._starts[items]]
            return _batch(tokens, there, there)
        inputs, targets = np.zeros(there[:, 1:].shape, np.int64), np.full(there[:, 1:].shape, IGNORED)
        for row, window in enumerate(map(self.__getitem__, chosen)):
            inputs[row, : len(window[0])], targets[row, : len(window[1])] = window
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def _part(self, index: int, begin: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What document `index` has between two places of the stream, as tokens and as targets."""
        document, start = self.data.item(index), int(self._starts[index])
        here = slice(max(begin - start, 0), end - start)
        tokens = document[here].astype(np.int64)
        if self.loss_mask in ("none", "pad"):
            return tokens, tokens
        learned = trained_mask(document, self.loss_mask, self.mask_ids, here.stop)[here]
        return tokens, np.where(learned, tokens, IGNORED)


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
