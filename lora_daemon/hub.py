"""Models, datasets and captioners from the Hugging Face Hub, through its own library.

``python -m lora_daemon.hub`` obeys a ``wire.FromHub``, as ``lora_daemon.download`` says.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from lora_daemon import download, pictures
from lora_daemon.base_folder import STEMS
from lora_daemon.caption_tables import is_table
from lora_daemon.download import Advance, Failed, Fetched, ordered, tell
from lora_daemon.jobs import Jobs
from lora_daemon.service import Context
from lora_daemon.sidecars import SUFFIXES as SIDE_CARS
from shared.errors import Code, LoraError
from shared.filenames import ARCHIVES, to_text
from shared.wire import FromHub

_SUFFIX = ".safetensors"
_CONFIGURATIONS = (
    "model_index.json", "scheduler/*", "tokenizer/*", "tokenizer_2/*",
    *(f"{part}/config.json" for part in STEMS),
)  # fmt: skip


async def job(jobs: Jobs, context: Context, wanted: FromHub) -> tuple[Path, str]:
    """Where what was wanted lies, and which it is, "owner/name@commit": fetched as a job that
    everybody sees. Raises LoraError: NOT_FOUND, UNREACHABLE, INVALID_FILE, STORAGE, WORKER_FAILED;
    cancelled, it gives up, and goes on from there the next time."""
    path, fetched = await download.job(jobs, context, wanted.id, __name__, wanted)
    return path, fetched.origin


def chosen(names: Iterable[str], wanted: FromHub) -> list[str]:
    """Which of a repository's files make a base (one file, or a diffusers folder's own), a dataset
    or a captioner.

    Of weights in two precisions, the half one: it is what trains. Raises LoraError(INVALID_FILE).
    """
    known = sorted(names)
    if wanted.kind == "dataset":
        return _pictures(known, wanted)
    if wanted.kind == "captioner":
        return _captioner(known, wanted)
    roots = [name for name in known if name.endswith(_SUFFIX) and "/" not in name]
    if wanted.file:
        if wanted.file not in known:
            hint = f" It has {', '.join(roots[:8])}." if roots else ""
            raise LoraError(Code.NOT_FOUND, f"{wanted.id} has no file {wanted.file}.{hint}")
        return [wanted.file]
    if "model_index.json" in known:
        picked = [name for name in known if any(map(PurePosixPath(name).match, _CONFIGURATIONS))]
        return picked + [
            name for part, stem in STEMS.items() for name in _weights(known, part, stem)
        ]
    if len(roots) == 1:
        return roots
    if roots:
        raise LoraError(
            Code.INVALID_FILE,
            f"{wanted.id} has several models. Say which with --file: {', '.join(roots[:12])}.",
            data={"files": roots},
        )
    pickles = any(name.endswith((".ckpt", ".bin", ".pt")) for name in known)
    raise LoraError(
        Code.INVALID_FILE,
        f"{wanted.id} holds no base: neither a model_index.json nor a .safetensors file."
        + (" It has pickles, which can run any program when opened." if pickles else ""),
    )


def _pictures(names: list[str], wanted: FromHub) -> list[str]:
    """What of a dataset's repository holds pictures and captions: its tables, else its archives,
    else its pictures themselves with what stands beside them."""
    asked = [name for name in names if wanted.file in name]
    for kind in ((".parquet",), ARCHIVES, pictures.SUFFIXES):
        found = [name for name in asked if name.lower().endswith(kind)]
        if not found:
            continue
        if kind == ARCHIVES and len(found) > 1:
            raise LoraError(
                Code.INVALID_FILE,
                f"{wanted.id} has several archives. Say which with --file: "
                f"{', '.join(found[:12])}.",
            )
        beside = [n for n in asked if n.lower().endswith(SIDE_CARS) or is_table(n)]
        return found + (beside if kind == pictures.SUFFIXES else [])
    text = f"{wanted.id} holds no pictures: no parquet files, archives or picture files"
    hint = f" with {wanted.file!r} in their path" if wanted.file else ""
    raise LoraError(Code.INVALID_FILE, f"{text}{hint}.")


def _captioner(names: list[str], wanted: FromHub) -> list[str]:
    """A tagger's network with its table of tags; else weights with all that transformers reads."""
    if not {"model.onnx", "selected_tags.csv"} - set(names):
        return ["model.onnx", "selected_tags.csv"]
    roots = [name for name in names if "/" not in name]
    weights = [name for name in roots if name.startswith("model") and name.endswith(_SUFFIX)]
    if "config.json" not in roots or not weights:
        raise LoraError(
            Code.INVALID_FILE,
            f"{wanted.id} holds no captioner: neither config.json with model.safetensors nor "
            "model.onnx with selected_tags.csv.",
        )
    whole = "model.safetensors"
    return [name for name in roots if name.endswith((".json", ".txt", ".jinja", ".model"))] + (
        [whole] if whole in weights else weights
    )


def _weights(names: list[str], part: str, stem: str) -> list[str]:
    """A part's weights: whole or in shards with their index, in half precision where there is."""
    own = [name for name in names if name.startswith(f"{part}/{stem}")]
    half = [name for name in own if ".fp16" in name and (name.endswith((_SUFFIX, ".json")))]
    plain = [
        name
        for name in own
        if name == f"{part}/{stem}{_SUFFIX}"
        or (
            name.startswith((f"{part}/{stem}-0", f"{part}/{stem}{_SUFFIX}.index.json"))
            and ".fp16" not in name
            and name.endswith((_SUFFIX, ".json"))
        )
    ]
    return half if any(name.endswith(_SUFFIX) for name in half) else plain


def main() -> None:
    """Obey the order on stdin."""
    wanted = ordered(FromHub)
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    try:
        tell(_fetch(wanted))
    except LoraError as error:
        tell(Failed(error.failure()))
    except Exception as error:
        tell(Failed(_explained(wanted, error).failure()))


def _fetch(wanted: FromHub) -> Fetched:
    try:
        from huggingface_hub import HfApi, hf_hub_download
    except ImportError:
        raise LoraError(
            Code.WRONG_STATE,
            'Fetching from the Hub needs the engine: pip install "lora-tui[engine]".',
        ) from None
    if wanted.offline:
        folder, commit = _cached(wanted)
        there = [one for one in folder.rglob("*") if one.is_file()]
        picked = chosen([one.relative_to(folder).as_posix() for one in there], wanted)
    else:
        where: dict[str, Any] = {"token": wanted.token or None, "endpoint": wanted.mirror or None}
        api = HfApi(**where)
        look = api.dataset_info if wanted.kind == "dataset" else api.model_info
        info = look(wanted.id, revision=wanted.revision or None, files_metadata=True)
        where["repo_type"] = _repository(wanted)
        commit = str(info.sha)
        sizes = {one.rfilename: int(one.size or 0) for one in info.siblings or ()}
        picked = chosen(sizes, wanted)
        done, total = 0, sum(sizes[name] for name in picked)
        for name in picked:
            tell(Advance(done, total, name))
            bar = _advancing(done, total, name)
            path = Path(hf_hub_download(wanted.id, name, revision=commit, tqdm_class=bar, **where))
            folder = path.parents[name.count("/")]
            done += sizes[name]
        # Once by the name that was asked for: the cache then knows what that name meant.
        hf_hub_download(wanted.id, picked[0], revision=wanted.revision or None, **where)
        tell(Advance(done, total, ""))
    single = len(picked) == 1 and picked[0].endswith((_SUFFIX, *ARCHIVES))
    path = folder / picked[0] if single else folder
    return Fetched(to_text(path), f"{wanted.id}@{commit}")


def _advancing(before: int, total: int, file: str) -> type[Any]:
    """A progress bar of the library's that tells how far it is with a file, and draws nothing."""
    from tqdm import tqdm

    class Telling(tqdm):  # type: ignore[misc]
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings, disable=True)
            self.n = settings.get("initial", 0)

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            tell(Advance(before + int(self.n), total, file))

    return Telling


def _repository(wanted: FromHub) -> str:
    """What the Hub calls such a repository."""
    return "dataset" if wanted.kind == "dataset" else "model"


def _cached(wanted: FromHub) -> tuple[Path, str]:
    """Folder and commit of what was fetched before. Raises LoraError(NOT_FOUND)."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    name = wanted.revision or "main"
    with contextlib.suppress(CacheNotFound):
        for repository in scan_cache_dir().repos:
            if (repository.repo_type, repository.repo_id) != (_repository(wanted), wanted.id):
                continue
            for one in repository.revisions:
                if name in one.refs or one.commit_hash.startswith(name):
                    return Path(one.snapshot_path), one.commit_hash
    raise LoraError(
        Code.NOT_FOUND,
        f"{wanted.id} at {name} is not in this machine's cache, and --offline asks nobody. Fetch "
        "it once without, or give a folder or a file.",
    )


def _explained(wanted: FromHub, error: Exception) -> LoraError:
    """What the Hub's library says, in words that say what to do."""
    from huggingface_hub import errors

    name = wanted.id + (f" at {wanted.revision}" if wanted.revision else "")
    match error:
        case errors.GatedRepoError():
            return LoraError(
                Code.NOT_FOUND,
                f"{name} is gated: accept its terms on its page, and give a token of yours with "
                "HF_TOKEN.",
            )
        case errors.RevisionNotFoundError():
            return LoraError(Code.NOT_FOUND, f"{wanted.id} has no revision {wanted.revision!r}.")
        case errors.RepositoryNotFoundError():
            return LoraError(
                Code.NOT_FOUND,
                f"The Hub has no {_repository(wanted)} {wanted.id}, or not for you: a private one "
                "needs a token in HF_TOKEN.",
            )
        case errors.HFValidationError():
            return LoraError(Code.BAD_REQUEST, f"{wanted.id!r} is no Hub id: that is owner/name.")
        case OSError() if error.errno and not isinstance(error, errors.HfHubHTTPError):
            return LoraError.storage("fetch to", error.filename or "the Hub's cache", error)
    where = wanted.mirror or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    reason = (
        str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    )
    return LoraError(
        Code.UNREACHABLE,
        f"The Hub at {where} gave no answer that helps ({reason}). Try again, or name a mirror "
        "with --mirror, or give a folder or a file.",
        retryable=True,
    )


if __name__ == "__main__":
    main()
