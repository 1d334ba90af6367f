"""What training reads: documents as inputs and targets, batches, and the order of documents."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from engine.contract.errors import UserError
from engine.contract.settings import TrainSettings
from engine.data.binidx import BinIdx, write_pair
from engine.data.dataset import (
    IGNORED,
    EpochSampler,
    PadDataset,
    WindowDataset,
    as_batch,
    check_vocabulary,
    cut,
    plan_numbers,
)
from engine.data.documents import Subset, TokenArray
from engine.data.masks import Turns, trained_mask, turns_of
from engine.data.tokenizer import Tokenizer


def pair(prefix: Path, items: list[list[int]]) -> BinIdx:
    with write_pair(prefix) as writer:
        for item in items:
            writer.add(np.array(item, "<u2").tobytes())
    return BinIdx(prefix)


def test_targets_are_one_ahead_and_cut(tmp_path: Path) -> None:
    dataset = PadDataset(pair(tmp_path / "d", [[1, 2, 3, 0], list(range(1, 10)), [7, 0]]), 4, "pad")
    assert [[t.tolist() for t in item] for item in (dataset[0], dataset[1], dataset[2])] == [
        [[1, 2, 3], [2, 3, 0]],
        [[1, 2, 3, 4], [2, 3, 4, 5]],
        [[7], [0]],
    ]
    assert all(t.dtype == torch.int64 for t in dataset[0])
    assert len(dataset) == 3


def test_a_question_is_no_target(tmp_path: Path) -> None:
    question, answer = Tokenizer().encode("User: Hi\n\nAssistant:"), Tokenizer().encode(" Hello 🙂")
    dataset = PadDataset(pair(tmp_path / "d", [[*question, *answer, 0]]), 512, "qa")
    inputs, targets = dataset[0]
    assert inputs.tolist() == [*question, *answer]
    assert targets.tolist() == [IGNORED] * (len(question) - 1) + [*answer, 0]


def test_a_cut_inside_a_marker_changes_nothing_before_it(tmp_path: Path) -> None:
    text = Tokenizer().encode("User: a\n\nAssistant: b\n\nUser: c\n\nAssistant: d\n\nUser: e")
    data = pair(tmp_path / "d", [[*text, 0]])
    whole = PadDataset(data, 512, "qa")[0][1]
    for ctx_len in range(1, len(text)):
        assert torch.equal(PadDataset(data, ctx_len, "qa")[0][1], whole[:ctx_len])


def test_a_batch_is_padded_to_its_longest(tmp_path: Path) -> None:
    dataset = PadDataset(pair(tmp_path / "d", [[1, 2, 3, 0], [4, 0], [0]]), 8, "none")
    inputs, targets = dataset.__getitems__(range(3))
    assert inputs.tolist() == [[1, 2, 3], [4, 0, 0], [0, 0, 0]]
    assert targets.tolist() == [[2, 3, 0], [0, IGNORED, IGNORED], [IGNORED] * 3]


def test_documents_of_one_token_make_a_batch_with_nothing_to_learn(tmp_path: Path) -> None:
    dataset = PadDataset(pair(tmp_path / "d", [[5], [], [0]]), 8, "qa")
    inputs, targets = dataset.__getitems__(range(3))
    assert inputs.tolist() == [[0]] * 3
    assert targets.tolist() == [[IGNORED]] * 3
    assert (inputs.dtype, targets.dtype) == (torch.int64, torch.int64)


def test_through_a_loader_with_workers(tmp_path: Path) -> None:
    dataset = PadDataset(pair(tmp_path / "d", [[i, i, 0] for i in range(1, 11)]), 8, "pad")
    sampler = EpochSampler(10, micro_bsz=2, epoch_steps=5, seed=3)
    loader = DataLoader(dataset, batch_size=2, sampler=sampler, collate_fn=as_batch, num_workers=1)
    batches = list(loader)
    assert [tuple(x.shape) for x, _ in batches] == [(2, 2)] * 5
    assert sorted(int(row[0]) for x, _ in batches for row in x) == list(range(1, 11))


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8).filter(any), st.integers(1, 9))
def test_windows_make_every_token_a_target_once(sizes: list[int], ctx_len: int) -> None:
    """Whatever the documents' sizes, 0 among them: the windows' targets are the stream from token 1 on."""
    stream = np.arange(1, sum(sizes) + 1)
    data = TokenArray(Path("x"), stream, np.concatenate([[0], np.cumsum(sizes)]))
    windows = WindowDataset(data, ctx_len, "pad")
    assert [len(x) for x, _ in (windows[i] for i in range(len(windows) - 1))] == [ctx_len] * (
        len(windows) - 1
    )
    pairs = [(x.tolist(), y.tolist()) for x, y in (windows[i] for i in range(len(windows)))]
    assert [t for _, y in pairs for t in y] == stream[1:].tolist()
    assert [t for x, _ in pairs for t in x] == stream[:-1].tolist()
    assert [len(x) + 1 for x, _ in pairs] == windows.sizes.tolist()


@given(st.integers(1, 30), st.sampled_from([("qa", None), ("se", (33, 0))]))
def test_a_window_learns_what_its_documents_teach(
    ctx_len: int, mask: tuple[str, tuple[int, int] | None]
) -> None:
    """Also where it begins or ends inside a document, or inside a marker."""
    texts = ["User: a\n\nAssistant: b c d e f g", "no marker here", "User: q\n\nAssistant: r\n\nUser: s"]
    items = [[*Tokenizer().encode(text), 0] for text in texts]
    stream = np.array([token for item in items for token in item], np.uint16)
    data = TokenArray(Path("x"), stream, np.cumsum([0, *map(len, items)]))
    windows = WindowDataset(data, ctx_len, *mask)
    learned = np.concatenate([trained_mask(np.array(item), *mask) for item in items])
    expected = np.where(learned, stream.astype(np.int64), IGNORED)[1:]
    assert [t for i in range(len(windows)) for t in windows[i][1].tolist()] == expected.tolist()


@pytest.mark.parametrize("loss_mask", ["qa", "se"])
def test_windows_of_a_long_document_are_not_each_read_from_its_beginning(
    monkeypatch: pytest.MonkeyPatch, loss_mask: str
) -> None:
    turn = Tokenizer().encode("User: a\n\nAssistant: b\n\n")
    stream = np.array(turn * 300, np.uint16)
    read = []

    def counted(tokens: np.ndarray, *rest: object) -> Turns:
        read.append(len(tokens))
        return turns_of(tokens, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("engine.data.dataset.turns_of", counted)
    windows = WindowDataset(TokenArray(Path("x"), stream, np.array([0, len(stream)])), 8, loss_mask, (11, 59))
    for i in range(len(windows)):
        windows.__getitems__([i])
    assert sum(read) < 2 * len(stream)
    windows._room = 0  # as if many other documents had been read since
    windows._turns(0)
    assert list(windows._known) == [0]


def test_windows_over_some_of_the_documents() -> None:
    data = TokenArray(Path("x"), np.arange(10), np.array([0, 3, 5, 10]))
    windows = WindowDataset(Subset(data, np.array([0, 2])), 4, "none")
    assert [[t.tolist() for t in windows[i]] for i in range(len(windows))] == [
        [[0, 1, 2, 5], [1, 2, 5, 6]],
        [[6, 7, 8], [7, 8, 9]],
    ]


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=8).filter(any), st.integers(1, 9), st.data(),
    st.sampled_from(["none", "qa", "se"]), st.sampled_from([PadDataset, WindowDataset]), st.booleans(),
)  # fmt: skip
def test_a_batch_is_its_examples_padded(
    sizes: list[int], ctx_len: int, draw: st.DataObject, loss_mask: str,
    kind: type[PadDataset] | type[WindowDataset], some: bool,
) -> None:  # fmt: skip
    """Whatever the documents' sizes and numbers, all of them or a subset."""
    stream = np.arange(1, sum(sizes) + 1).astype(np.uint16)
    data: TokenArray | Subset = TokenArray(Path("x"), stream, np.cumsum([0, *sizes]))
    if some:
        kept = draw.draw(st.lists(st.sampled_from(range(len(sizes))), min_size=1))
        data = Subset(data, np.array(kept))
    assume(data.tokens)
    examples = kind(data, ctx_len, loss_mask, (3, 7))
    chosen = draw.draw(st.lists(st.sampled_from(range(len(examples))), min_size=1, max_size=6))
    pairs = [examples[i] for i in chosen]
    length = max(1, *(len(x) for x, _ in pairs))
    for side, padding in ((0, 0), (1, IGNORED)):
        expected = [pair[side].tolist() + [padding] * (length - len(pair[side])) for pair in pairs]
        batch = examples.__getitems__(chosen)[side]
        assert (batch.tolist(), batch.dtype) == (expected, torch.int64)


def test_a_single_token_makes_one_empty_window() -> None:
    windows = WindowDataset(TokenArray(Path("x"), np.array([5]), np.array([0, 1])), 4, "none")
    assert len(windows) == 1 and windows.__getitems__([0])[1].tolist() == [[IGNORED]]


def test_dataload_and_loss_mask_decide_the_examples(tmp_path: Path) -> None:
    data = pair(tmp_path / "d", [[1, 2, 3, 4, 5, 0], [6, 0]])

    def targets(**values: object) -> list[list[int]]:
        examples = cut(data, TrainSettings.model_validate({"ctx_len": 3, **values}))
        return [examples[i][1].tolist() for i in range(len(examples))]

    assert targets() == targets(dataload="only") == [[2, 3, 4], [0]]
    assert targets(dataload="get") == [[2, 3, 4], [5, 0, 6], [0]]
    between = {"loss_mask": "se", "mask_id": {"mask1": "2", "mask0": 4}}
    assert targets(**between) == [[IGNORED, 3, 4], [IGNORED]]
    assert targets(dataload="get", **between) == [[IGNORED, 3, 4], [IGNORED] * 3, [IGNORED]]


def order(sampler: EpochSampler, epochs: int) -> list[int]:
    found = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        found += list(sampler)
    return found


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 30), st.integers(0, 2**40))
def test_every_pass_is_a_permutation(documents: int, micro_bsz: int, epoch_steps: int, seed: int) -> None:
    """Whatever the length of an epoch: epochs go on where the last one ended and wrap."""
    sampler = EpochSampler(documents, micro_bsz, epoch_steps, seed)
    assert len(sampler) == micro_bsz * epoch_steps
    found = order(sampler, epochs=4)
    assert len(found) == 4 * len(sampler)
    for start in range(0, len(found) - documents + 1, documents):
        assert sorted(found[start : start + documents]) == list(range(documents))
    assert max(Counter(found).values()) - min(Counter(found)[i] for i in range(documents)) <= 1


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    sampler = EpochSampler(100, 1, 30, seed=5)
    whole = order(sampler, 10)
    again = EpochSampler(100, 1, 30, seed=5)
    again.set_epoch(7)
    assert list(again) == whole[210:240]
    assert order(EpochSampler(100, 1, 30, seed=6), 10) != whole
    passes = [tuple(whole[i : i + 100]) for i in (0, 100, 200)]
    assert all(a != b for a, b in itertools.combinations(passes, 2))


def test_the_numbers_of_a_plan(tmp_path: Path) -> None:
    numbers = plan_numbers(pair(tmp_path / "d", [[1] * 5, [1] * 6, [1] * 20]), 4)
    assert (numbers.documents, numbers.tokens, numbers.cut_documents, numbers.cut_tokens) == (3, 31, 2, 16)

    windows = plan_numbers(pair(tmp_path / "e", [[1] * 20]), 4, "get")
    assert (windows.tokens, windows.cut_documents, windows.cut_tokens) == (20, 0, 0)


def test_ids_beyond_the_vocabulary_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.data.dataset._CHUNK", 4)
    data = pair(tmp_path / "d", [[1, 2, 0], [3, 0], [], [4, 65529, 900, 0]])
    check_vocabulary(data, 65536)
    check_vocabulary(data, 65530)
    with pytest.raises(UserError, match=r"item 3 of .* token id 65529.* 65529 entries"):
        check_vocabulary(data, 65529)
    with pytest.raises(UserError, match=r"item 1 of .* token id 3"):
        check_vocabulary(data, 3)


def test_negative_ids_are_named(tmp_path: Path) -> None:
    pair(tmp_path / "d", [[1, 0], [65535, 0]])
    index = tmp_path / "d.idx"
    raw = bytearray(index.read_bytes())
    raw[17] = 3  # the dtype code: the same bytes as int16, where 65535 is -1
    index.write_bytes(raw)
    with pytest.raises(UserError, match=r"item 1 of .* token id -1"):
        check_vocabulary(BinIdx(tmp_path / "d"), 65536)
