"""ComfyUI's ``prompt``: the graph of nodes that made a picture, followed back from its sampler.

Nodes of others than ComfyUI itself are passed through where they hand on a text, a model or a
conditioning under a usual name; what cannot be followed stays empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

SAMPLERS = {
    "euler": "Euler", "euler_ancestral": "Euler a", "heun": "Heun", "lms": "LMS", "dpm_2": "DPM2",
    "dpm_2_ancestral": "DPM2 a", "dpmpp_2m": "DPM++ 2M", "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_gpu": "DPM++ 2M SDE", "dpmpp_sde": "DPM++ SDE", "dpmpp_sde_gpu": "DPM++ SDE",
    "ddim": "DDIM", "uni_pc": "UniPC", "lcm": "LCM",
}  # fmt: skip
_TEXTS = ("text", "text_g", "text_l", "string", "value", "prompt", "positive", "conditioning",
          "conditioning_1", "conditioning_to")  # fmt: skip
_FARTHEST = 100  # nodes in a row


class Found(msgspec.Struct, kw_only=True):
    """What a graph says; numbers as they stand in it."""

    prompt: str = ""
    negative: str = ""
    sampler: tuple[str, str] = ("", "")  # its name and its schedule's
    steps: Any = None
    cfg: Any = None
    seed: Any = None
    width: Any = None
    height: Any = None
    model: str = ""
    loras: list[tuple[Any, Any, Any]] = []  # name, weight, the text encoder's
    strength: float = 1.0


def read(graph: Any) -> Found | None:
    """What the graph's sampler was given; None where it has none. Of several the first to begin
    counts: the one that starts from an empty picture."""
    if not isinstance(graph, dict):
        return None
    nodes = {str(name): node for name, node in graph.items() if isinstance(node, dict)}
    samplers = [one for one in nodes.values() if "KSampler" in str(one.get("class_type", ""))]
    if not samplers:
        return None
    first = next((one for one in samplers if _empty(nodes, one)), samplers[0])
    own = _inputs(first)
    found = Found(
        prompt=_text(nodes, own.get("positive")),
        negative=_text(nodes, own.get("negative")),
        sampler=(str(own.get("sampler_name", "")), str(own.get("scheduler", ""))),
        steps=_value(nodes, own.get("steps")),
        cfg=_value(nodes, own.get("cfg")),
        seed=_value(nodes, own.get("seed", own.get("noise_seed"))),
    )
    if isinstance(denoise := own.get("denoise"), int | float) and not _empty(nodes, first):
        found.strength = float(denoise)
    for node in _chain(nodes, own.get("model"), "model"):
        given = _inputs(node)
        if "lora_name" in given:
            weight = given.get("strength_model", 1.0)
            found.loras.insert(0, (given["lora_name"], weight, given.get("strength_clip", weight)))
        found.model = str(given.get("ckpt_name", given.get("unet_name", found.model)))
    for node in _chain(nodes, own.get("latent_image"), "samples"):
        given = _inputs(node)
        if "width" in given and "height" in given:
            found.width, found.height = (_value(nodes, given[side]) for side in ("width", "height"))
    return found


def _inputs(node: dict[str, Any]) -> dict[str, Any]:
    given = node.get("inputs")
    return given if isinstance(given, dict) else {}


def _linked(nodes: dict[str, Any], value: Any) -> dict[str, Any] | None:
    """The node that a value comes from, if it is a link."""
    if isinstance(value, list) and value and isinstance(value[0], str | int):
        return nodes.get(str(value[0]))
    return None


def _chain(nodes: dict[str, Any], value: Any, name: str) -> Iterator[dict[str, Any]]:
    """The nodes behind a value, each given by the one before under ``name``."""
    for _ in range(_FARTHEST):
        node = _linked(nodes, value)
        if node is None:
            return
        yield node
        value = _inputs(node).get(name)


def _value(nodes: dict[str, Any], value: Any) -> Any:
    """A number, also one that another node holds."""
    node = _linked(nodes, value)
    if node is None:
        return value
    given = _inputs(node)
    return next((given[name] for name in ("value", "seed", "int", "float") if name in given), None)


def _text(nodes: dict[str, Any], value: Any) -> str:
    """The words behind a conditioning."""
    for _ in range(_FARTHEST):
        if isinstance(value, str):
            return value
        node = _linked(nodes, value)
        if node is None:
            return ""
        given = _inputs(node)
        value = next((given[name] for name in _TEXTS if given.get(name)), None)
    return ""


def _empty(nodes: dict[str, Any], sampler: dict[str, Any]) -> bool:
    node = _linked(nodes, _inputs(sampler).get("latent_image"))
    return node is not None and "Empty" in str(node.get("class_type", ""))
