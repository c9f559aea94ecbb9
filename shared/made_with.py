"""What a picture was made with, as its maker wrote it into the file: read, and put to use again.

Known are the ``parameters`` text of the WebUI family (ours too), ComfyUI's ``prompt`` graph, and
the JSON of InvokeAI and NovelAI. What a text claims is taken as text: nothing in it is trusted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_args

import msgspec
from msgspec.structs import replace

from shared import comfy_graph, lora_tags
from shared.errors import LoraError
from shared.pictures import UPSCALERS, LoraUse, PictureSpec, SecondPass, Variation, more, stem, tag
from shared.recipe import Sampler

LONGEST = 10_000  # characters of a prompt that is kept
_SAMPLERS: tuple[str, ...] = get_args(Sampler)
_BY_LOWER = {name.lower(): name for name in _SAMPLERS}
_FIELD = re.compile(r'\s*([A-Za-z][\w /.-]*):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
_USUAL = {  # what the WebUI takes for a sampler where its schedule is left to it
    "DPM++ 2M": "Karras", "DPM++ SDE": "Karras", "DPM2": "Karras", "DPM2 a": "Karras",
    "DPM++ 2M SDE": "Exponential",
}  # fmt: skip
_NOVEL = {
    "k_euler": "Euler", "k_euler_ancestral": "Euler a", "k_dpmpp_2m": "DPM++ 2M",
    "k_dpmpp_sde": "DPM++ SDE", "k_dpmpp_2m_sde": "DPM++ 2M SDE", "k_heun": "Heun",
    "k_lms": "LMS", "k_dpm_2": "DPM2", "k_dpm_2_ancestral": "DPM2 a", "ddim": "DDIM",
}  # fmt: skip
_INVOKE = {
    "euler": "Euler", "euler_k": "Euler Karras", "euler_a": "Euler a", "heun": "Heun",
    "heun_k": "Heun Karras", "lms": "LMS", "lms_k": "LMS Karras", "kdpm_2": "DPM2",
    "kdpm_2_k": "DPM2 Karras", "kdpm_2_a": "DPM2 a", "kdpm_2_a_k": "DPM2 a Karras",
    "dpmpp_2m": "DPM++ 2M", "dpmpp_2m_k": "DPM++ 2M Karras", "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_k": "DPM++ 2M SDE Karras", "dpmpp_sde": "DPM++ SDE",
    "dpmpp_sde_k": "DPM++ SDE Karras", "ddim": "DDIM", "unipc": "UniPC", "unipc_k": "UniPC Karras",
    "lcm": "LCM",
}  # fmt: skip


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of how a picture was made; what is not is empty, or none.

    ``tool``: who wrote it. ``sampler``: by the name it has here, else as it was written.
    ``strength``: of the picture that it was begun from. ``rest``: what else was said of it.
    """

    tool: str = ""
    prompt: str = ""
    negative: str = ""
    sampler: str = ""
    steps: int | None = None
    cfg: float | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    model: str = ""
    loras: list[LoraUse] = []
    variation: Variation | None = None
    strength: float | None = None
    second: SecondPass | None = None
    rest: dict[str, str] = {}


def read(texts: Mapping[str, str]) -> Made | None:
    """What the texts of a picture file, by their keywords, say; None: nothing that is known."""
    readers: tuple[tuple[str, Callable[[str], Made | None]], ...] = (
        ("parameters", of_webui), ("invokeai_metadata", _of_invoke), ("Comment", _of_novel),
        ("prompt", _of_comfy),
    )  # fmt: skip
    for keyword, reader in readers:
        if keyword in texts:
            try:
                found = reader(texts[keyword])
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError, LoraError):
                found = None
            if found is not None:
                return replace(
                    found, prompt=found.prompt[:LONGEST], negative=found.negative[:LONGEST]
                )
    return None


def of_webui(text: str) -> Made | None:
    """The WebUI's ``parameters``: prompt, ``Negative prompt:``, a line of fields. None where it is
    something else."""
    lines = text.strip().split("\n")
    fields = dict(_FIELD.findall(lines[-1]))
    if len(fields) < 3 or "Steps" not in fields:
        return None
    words = "\n".join(lines[:-1])
    prompt, _, negative = words.partition("Negative prompt:")
    steps = _whole(fields.pop("Steps"))
    try:
        prompt, loras = lora_tags.taken(prompt.strip(), steps or lora_tags.STEPS)
    except LoraError:
        prompt, loras = prompt.strip(), []
    name, schedule = fields.pop("Sampler", ""), fields.pop("Schedule type", "")
    width, _, height = fields.pop("Size", "").partition("x")
    strength = _number(fields.pop("Denoising strength", ""))
    second = _second(fields, strength)
    variation = None
    if "Variation seed strength" in fields:
        share = _number(fields.pop("Variation seed strength"))
        seed = _whole(fields.pop("Variation seed", ""))
        if seed is not None and share is not None and 0 <= share <= 1:
            variation = Variation(seed=seed, strength=share)
    tool = "lora-tui" if fields.get("Version") == "lora-tui" else "WebUI"
    return Made(
        tool=tool, prompt=prompt, negative=negative.strip(), sampler=sampler(name, schedule),
        steps=steps, cfg=_number(fields.pop("CFG scale", "")),
        seed=_whole(fields.pop("Seed", "")), width=_whole(width), height=_whole(height),
        model=fields.pop("Model", ""), loras=loras, variation=variation,
        strength=None if second else strength, second=second, rest=fields,
    )  # fmt: skip


def webui(made: Made) -> str:
    """What is known, as the WebUI reads it from a text."""
    loras = [tag(use, made.steps or lora_tags.STEPS) for use in made.loras]
    lines = [" ".join([made.prompt, *loras])]
    if made.negative:
        lines.append(f"Negative prompt: {made.negative}")
    size = f"{made.width}x{made.height}" if made.width and made.height else None
    known = {
        "Steps": made.steps, "Sampler": made.sampler or None, "CFG scale": made.cfg,
        "Seed": made.seed, "Size": size, "Model": made.model or None,
    }  # fmt: skip
    fields = [f"{name}: {value}" for name, value in known.items() if value is not None]
    return "\n".join(
        [*lines, ", ".join([*fields, *more(made.variation, made.strength, made.second)])]
    )


def sampler(name: str, schedule: str = "") -> str:
    """A sampler and its schedule, as they are written elsewhere, by the name they have here."""
    if schedule == "Automatic":
        schedule = _USUAL.get(name, "")
    if schedule.lower() in ("", "uniform", "normal", "simple"):
        return _BY_LOWER.get(name.lower(), name)
    both = f"{name} {schedule}"
    return _BY_LOWER.get(both.lower(), both)


def again(
    made: Made, bases: Collection[str], loras: Collection[str], upscalers: Collection[str] = ()
) -> tuple[PictureSpec, list[str]]:
    """The picture to ask for to have it once more, with the bases, LoRAs and networks that enlarge
    that there are, and what of it cannot be had, in sentences."""
    left = []
    network = made.rest.get("Hires upscaler", "")
    if made.second and (name := next((one for one in upscalers if _same(one, network)), "")):
        rest = {key: value for key, value in made.rest.items() if key != "Hires upscaler"}
        made = replace(made, second=replace(made.second, upscaler=name), rest=rest)
    base = next((name for name in bases if _same(name, made.model)), "")
    if not base:
        base = "starter" if "starter" in bases or not bases else next(iter(bases))
        of = f"Its base, {made.model}, is not here" if made.model else "Its base is not said"
        left.append(f"{of}: {base} takes its place.")
    uses = []
    for use in made.loras:
        name = next((one for one in loras if _same(one, use.lora)), "")
        if name:
            uses.append(replace(use, lora=name))
        else:
            left.append(f"There is no LoRA {use.lora} here: it is left out.")
    left += _not_said(made)
    values: dict[str, Any] = {
        "base": base, "prompt": made.prompt, "negative": made.negative, "loras": uses,
        "variation": made.variation, "second": made.second,
    }  # fmt: skip
    if made.sampler in _SAMPLERS:
        values["sampler"] = made.sampler
    elif made.sampler:
        left.append(f"There is no sampler {made.sampler} here: {PictureSpec().sampler} is taken.")
    for name in ("steps", "cfg", "seed", "width", "height"):
        if getattr(made, name) is not None:
            values[name] = getattr(made, name)
    if values.get("width", 0) % 8 or values.get("height", 0) % 8:
        left.append("Its size is no multiple of 8 pixels: the base's own is taken.")
        del values["width"], values["height"]
    spec = PictureSpec()
    for name, value in values.items():
        try:
            fields = msgspec.to_builtins(replace(spec, **{name: value}))
            spec = msgspec.convert(fields, PictureSpec)
        except msgspec.ValidationError:
            left.append(f"Its {name}, {str(value)[:40]}, is out of bounds here.")
    return spec, left


def _not_said(made: Made) -> list[str]:
    """What the texts leave open, or name something for that is not here, in sentences."""
    left = []
    if made.seed is None:
        left.append("Its seed is not known: another picture will come of it.")
    if made.strength is not None:
        left.append(
            f"It was begun from another picture (strength {made.strength:g}), which is not named "
            "in it: this one would be made from noise. Give that picture with --from."
        )
    if made.second is not None and (upscaler := made.rest.get("Hires upscaler")):
        left.append(
            f"Its upscaler, {upscaler}, is a network that is not here: {made.second.upscaler} "
            "takes its place. If you have it, put it into the upscalers folder, or give it with "
            "--upscaler."
        )
    return left


def _same(name: str, other: str) -> bool:
    return bool(other) and stem(name).lower() == stem(other).lower()


def _second(fields: dict[str, str], strength: float | None) -> SecondPass | None:
    """The second pass, of the fields that are about it."""
    scale = _number(fields.pop("Hires upscale", ""))
    steps = _whole(fields.pop("Hires steps", "")) or 0
    upscaler = fields.get("Hires upscaler", "Latent")
    if scale is None or not 1 <= scale <= 4 or not 0 <= steps <= 1000:
        return None
    if upscaler in UPSCALERS:
        fields.pop("Hires upscaler", None)
    else:  # Latent (nearest) and its like; the others are networks, which may be here or not
        upscaler = "Latent" if upscaler.startswith("Latent") else "Lanczos"
    known: dict[str, Any] = {"scale": scale, "steps": steps, "upscaler": upscaler}
    if strength is not None and 0 <= strength <= 1:
        known["strength"] = strength
    return SecondPass(**known)


def _of_comfy(text: str) -> Made | None:
    found = comfy_graph.read(json.loads(text))
    if found is None:
        return None
    name, schedule = found.sampler
    return Made(
        tool="ComfyUI", prompt=found.prompt, negative=found.negative,
        sampler=sampler(comfy_graph.SAMPLERS.get(name, name), schedule.replace("_", " ")),
        steps=_whole(found.steps), cfg=_number(found.cfg), seed=_whole(found.seed),
        width=_whole(found.width), height=_whole(found.height), model=stem(found.model),
        loras=[use for one in found.loras if (use := _use(*one)) is not None],
        strength=found.strength if found.strength < 1 else None,
    )  # fmt: skip


def _of_invoke(text: str) -> Made | None:
    table = json.loads(text)
    model = table.get("model") or {}
    loras = [
        _use(one.get("model", one.get("lora", {})).get("name", ""), one.get("weight", 1.0), None)
        for one in table.get("loras") or []
    ]
    name = str(table.get("scheduler", ""))
    return Made(
        tool="InvokeAI", prompt=str(table.get("positive_prompt", "")),
        negative=str(table.get("negative_prompt") or ""), sampler=_INVOKE.get(name, name),
        steps=_whole(table.get("steps")), cfg=_number(table.get("cfg_scale")),
        seed=_whole(table.get("seed")), width=_whole(table.get("width")),
        height=_whole(table.get("height")),
        model=str(model.get("name") or model.get("model_name") or ""),
        loras=[use for use in loras if use is not None], strength=_number(table.get("strength")),
    )  # fmt: skip


def _of_novel(text: str) -> Made | None:
    table = json.loads(text)
    if "uc" not in table or "prompt" not in table:
        return None
    name = str(table.get("sampler", ""))
    schedule = str(table.get("noise_schedule", ""))
    return Made(
        tool="NovelAI", prompt=str(table["prompt"]), negative=str(table["uc"]),
        sampler=sampler(_NOVEL.get(name, name), "" if schedule == "native" else schedule),
        steps=_whole(table.get("steps")), cfg=_number(table.get("scale")),
        seed=_whole(table.get("seed")), width=_whole(table.get("width")),
        height=_whole(table.get("height")), strength=_number(table.get("strength")),
    )  # fmt: skip


def _use(name: Any, weight: Any, text_weight: Any) -> LoraUse | None:
    """A LoRA at its weights, if they are some."""
    unet, text = _number(weight), _number(text_weight)
    if not isinstance(name, str) or not name or unet is None or not -10 <= unet <= 10:
        return None
    if text is not None and not -10 <= text <= 10:
        return None
    return LoraUse(lora=stem(name), weight=unet, text_weight=None if text == unet else text)


def _number(value: Any) -> float | None:
    try:
        found = float(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if abs(found) < 1e18 else None  # also not NaN


def _whole(value: Any) -> int | None:
    """A whole number of 0 or more, exactly: seeds have more digits than a float."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if 0 <= value < 2**62 else None
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,18}\s*", value):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() and value >= 0 else None
