"""A conversation is one text to the model, however it comes, and one can take back what was said last."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.chat.generate import generate
from engine.chat.job import converse, open_talks
from engine.chat.talk import STOP, Halted, Talk, until
from engine.checkpoints.save import save_tensors
from engine.contract.events import Answered, Event, Failed, Piece, Ready
from engine.contract.talk import Ask, Forget, Halt, Sampling
from engine.data.tokenizer import Tokenizer
from engine.models import load_model
from engine.models.base import RWKV

GREEDY = Sampling(top_p=0.0, frequency=0.0, length=6)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> RWKV:
    """One in which it matters what was said before."""
    model = load_model(tiny_model)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng))
    return model


@pytest.fixture(scope="module")
def state(model: RWKV, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("state") / "s.pth"
    shape = (model.n_head, model.head_size, model.head_size)
    rng = torch.Generator().manual_seed(3)
    save_tensors(
        {f"blocks.{i}.att.time_state": torch.randn(shape, generator=rng) for i in range(model.n_layer)}, path
    )
    return path


def said(talk: Talk, text: str, **how: object) -> str:
    ask = Ask.model_validate({"text": text, "sampling": GREEDY, **how})
    return "".join(piece for piece in talk.answer(ask, lambda: False) if isinstance(piece, str))


def untuned(model: RWKV) -> Talk:
    return Talk(model, [None] * model.n_layer)


def greedy(model: RWKV, text: str) -> str:
    """The answer to a text that is read from its beginning."""
    return Tokenizer().decode(generate(model, Tokenizer().encode(text), length=6))


@given(st.lists(st.text("\nUser: x", max_size=4), max_size=12))
def test_an_answer_ends_where_the_person_would_speak(texts: list[str]) -> None:
    pieces = [piece for number, text in enumerate(texts) for piece in (number, text)]
    found = list(until(pieces))
    assert "".join(p for p in found if isinstance(p, str)) == "".join(texts).partition(STOP)[0]
    tokens = [p for p in found if isinstance(p, int)]
    assert tokens == list(range(len(tokens)))


def test_a_conversation_is_one_text(model: RWKV) -> None:
    talk = untuned(model)
    first = said(talk, "Who\n\n are you?")
    assert first == greedy(model, "User: Who\n are you?\n\nAssistant:")
    begun = f"User: Who\n are you?\n\nAssistant: {first.strip()}\n\n"
    second = said(talk, "And I?")
    assert second == greedy(model, f"{begun}User: And I?\n\nAssistant:")
    assert second != greedy(model, "User: And I?\n\nAssistant:")
    assert said(talk, "And I?", again=True) == second
    begun += f"User: And I?\n\nAssistant: {second.strip()}\n\n"
    assert said(talk, "And I?") == greedy(model, f"{begun}User: And I?\n\nAssistant:")
    talk.forget()
    assert said(talk, "Who\n\n are you?") == first


def test_a_text_is_continued_as_it_stands_and_leaves_the_conversation_alone(model: RWKV) -> None:
    talk, other = untuned(model), untuned(model)
    said(talk, "Hi")
    said(other, "Hi")
    assert said(talk, "The sky", form="text") == greedy(model, "The sky")
    assert said(talk, "And?") == said(other, "And?")


def test_what_is_halted_counts_as_said(model: RWKV) -> None:
    talk, heard = untuned(model), list[str]()

    def listen() -> None:
        for piece in talk.answer(Ask(text="Hi", sampling=GREEDY), lambda: bool("".join(heard).strip())):
            heard.append(piece if isinstance(piece, str) else "")

    with pytest.raises(Halted):
        listen()
    answer = "".join(heard).strip()
    assert 0 < len(answer) < len(greedy(model, "User: Hi\n\nAssistant:"))
    assert said(talk, "And?") == greedy(model, f"User: Hi\n\nAssistant: {answer}\n\nUser: And?\n\nAssistant:")


def test_penalties_keep_a_model_from_repeating_itself(model: RWKV) -> None:
    prompt = Tokenizer().encode("a a a a")
    plain, punished = (
        list(generate(model, prompt, length=40, stop_ids=(), frequency=frequency))
        for frequency in (0.0, 50.0)
    )
    assert plain[0] == punished[0]
    assert len(set(plain)) < len(set(punished)) == 40


def converses(model_file: Path, state: Path | None, lines: list[str]) -> list[Event]:
    told = list[Event]()
    talks = open_talks(model_file, state, None, "none", "cpu", told.append)
    converse(talks, lines, told.append)
    return told


def line(request: Ask | Forget | Halt) -> str:
    return request.model_dump_json() + "\n"


def wait_between(lines: list[str], told: list[Event]) -> Iterator[str]:
    """The lines, each once the one before is answered."""
    for number, one in enumerate(lines):
        yield one
        while sum(isinstance(event, Answered) for event in told) < 2 * (number + 1):
            threading.Event().wait(0.01)


def test_the_base_and_the_tuned_model_answer_side_by_side(tiny_model: Path, state: Path) -> None:
    told = list[Event]()
    talks = open_talks(tiny_model, state, None, "none", "cpu", told.append)
    asks = [line(Ask(text=text, who=("base", "tuned"), sampling=GREEDY)) for text in ("Hi", "And?")]
    converse(talks, wait_between(asks, told), told.append)
    ready = next(event for event in told if isinstance(event, Ready))
    assert ready.who == ("base", "tuned")
    answers = {
        who: "".join(event.text for event in told if isinstance(event, Piece) and event.who == who)
        for who in ready.who
    }
    for who, file in (("base", None), ("tuned", state)):
        alone = load_model(tiny_model, state=file)
        talk = Talk(alone, [mixer.time_state for mixer in alone.time_mixers()])
        assert answers[who] == said(talk, "Hi") + said(talk, "And?")
    assert answers["base"] != answers["tuned"]


def test_a_halt_ends_what_was_asked_before_it_and_nonsense_is_told(tiny_model: Path) -> None:
    endless = Ask(text="Hi", sampling=Sampling(length=1 << 20))
    told = converses(
        tiny_model, None, [line(endless), line(endless), json.dumps({"type": "x"}), line(Halt())]
    )
    ends = [event.end for event in told if isinstance(event, Answered)]
    assert ends == ["halted", "halted"]
    assert [event.cause for event in told if isinstance(event, Failed)] == ["request"]
