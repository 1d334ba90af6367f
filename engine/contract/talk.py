"""What the job `chat` is told on stdin, one JSON object a line; it answers with events."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from engine.contract.events import Who
from engine.contract.i18n import N_


class Sampling(BaseModel):
    """How tokens are drawn. The defaults are those of RWKV Runner, where a state is mostly used.

    `presence` is taken once, and `frequency` for each time, from the logit of a token that was said
    (what was said longer ago counts less). `top_p` 0 always takes the likeliest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(1.0, ge=0, le=10, description=N_("below 1 calmer, above 1 wilder"))
    top_p: float = Field(0.3, ge=0, le=1, description=N_("share drawn from; 0: only the likeliest"))
    presence: float = Field(0.0, ge=-10, le=10, description=N_("against a word that was said"))
    frequency: float = Field(1.0, ge=-10, le=10, description=N_("against a word each time it was said"))
    length: int = Field(500, ge=1, le=1 << 20, description=N_("tokens of an answer at most"))
    seed: int = Field(0, ge=0, lt=1 << 63, description=N_("the same seed says the same"))


class Ask(BaseModel):
    """A question to each of `who`, one after the other. With `again` it takes the place of the last one.

    In the form "chat" it is a turn of the conversation that goes on; "text" is continued as it stands,
    and nothing said before counts.
    """

    type: Literal["ask"] = "ask"
    text: str = Field(min_length=1)
    who: tuple[Who, ...] = ("tuned",)
    form: Literal["chat", "text"] = "chat"
    again: bool = False
    sampling: Sampling = Sampling()


class Forget(BaseModel):
    """The conversation begins anew."""

    type: Literal["forget"] = "forget"


class Halt(BaseModel):
    """The answer that is being given ends here."""

    type: Literal["halt"] = "halt"


Request = Ask | Forget | Halt

_ADAPTER: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="type")])


def parse_request(line: str | bytes) -> Request:
    """Raises ValueError for a line that is no request."""
    return _ADAPTER.validate_json(line)
