"""Tensors of a base that are not used, in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

_CARRIED = (
    (re.compile(r"^model_ema\."), "EMA weights"),
    (re.compile(r"\.position_ids$"), "position_ids"),
    (re.compile(r"^encoder\.embed_tokens\.weight$"), "the T5's embeddings a second time"),
    (re.compile(r"\.logit_scale$"), "logit scale of the text encoder"),
    (re.compile(r"\.resblocks\.\d+\.|\.text_projection$"), "unused last layer of the text encoder"),
    (
        re.compile(r"^(betas|alphas_|sqrt_|log_one_minus|posterior_|lvlb|logvar|denoiser\.sigmas)"),
        "noise schedule",
    ),
    (re.compile(r"^(v_pred|ztsnr)$"), "marks of what it predicts"),
    (re.compile(r"^(global_step|first_stage_model\.loss\.)"), "leftovers of its training"),
)
UNKNOWN = "tensors that lora-tui does not know, such as "


def carried(names: Iterable[str]) -> dict[str, int]:
    """What tensors that are not used are, in words, and how many there are of each kind."""
    kinds = {
        name: next((words for pattern, words in _CARRIED if pattern.search(name)), UNKNOWN)
        for name in sorted(names)
    }
    strange = next((name for name, kind in kinds.items() if kind is UNKNOWN), "")
    counts = Counter(kind + strange * (kind is UNKNOWN) for kind in kinds.values())
    return dict(sorted(counts.items()))
