"""What training will make of data, as far as looking at the data goes."""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.contract.job_flags import PLAN_FLAGS as FLAGS
from engine.data.masks import trained_mask


class DataPlan(NamedTuple):
    """What is cut, what is learned, and how many documents or windows an epoch takes (0: unknown).

    With `windows` a run learns windows of ctx_len of all documents laid end to end, else whole documents;
    `held_out`: without those that val_split sets aside.
    """

    ctx_len: int = 512
    loss_mask: str = "qa"
    mask_ids: tuple[int, int] | None = None
    epoch_documents: int = 0
    windows: bool = False
    held_out: bool = False

    def learned(self, document: NDArray[Any], most: int) -> NDArray[np.bool_]:
        """True [t] where a token is learned, of the first `most`, and of a document that ctx_len cuts those
        that it leaves."""
        mask = self.loss_mask
        if mask == "se" and self.mask_ids is None:  # nobody has said yet what is learned
            mask = "none"
        return trained_mask(
            document, mask, self.mask_ids, most if self.windows else min(most, self.ctx_len + 1)
        )


def plan_of(args: argparse.Namespace) -> DataPlan:
    """The plan that flags describe; what they leave out is as in training. Raises SettingsError."""
    from engine.contract.check import check_values
    from engine.contract.errors import SettingsError

    given = {name: value for name in FLAGS if (value := getattr(args, name)) is not None}
    checked = check_values(given, files=False)
    problems = [problem for problem in checked.problems if problem.field in given]
    if problems or checked.settings is None:
        raise SettingsError(problems)
    s = checked.settings
    return DataPlan(
        s.ctx_len, s.loss_mask, s.mask_ids, s.epoch_steps * s.micro_bsz, s.dataload == "get", s.val_split > 0
    )  # fmt: skip
