"""What users of kohya's scripts have becomes a recipe, and each option gets its word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lora_tui.kohya import tables
from lora_tui.kohya.files import Given, command_line, read
from lora_tui.kohya.report import Line
from lora_tui.kohya.translate import translate
from shared import recipe
from shared.errors import Code, LoraError
from shared.recipe import Recipe

CONFIG = """
[model]
pretrained_model_name_or_path = "runwayml/stable-diffusion-v1-5"
v2 = false
[network]
network_module = "networks.lora"
network_dim = 32
network_alpha = 16
network_args = ["conv_dim=8", "conv_alpha=4", "rank_dropout=0.1", "block_dims=1,2"]
scale_weight_norms = 1.0
[optimizer]
optimizer_type = "Prodigy"
optimizer_args = ["decouple=True", "weight_decay=0.01", "d_coef=2", "use_bias_correction=True", \
"safeguard_warmup=True", "betas=0.9,0.99"]
learning_rate = 1.0
lr_scheduler = "cosine_with_restarts"
lr_scheduler_num_cycles = 3
lr_scheduler_power = 1
[training]
max_train_epochs = 10
train_batch_size = 2
gradient_accumulation_steps = 2
mixed_precision = "bf16"
seed = 42
min_snr_gamma = 5
noise_offset = 0.0357
cache_latents = true
xformers = true
clip_skip = 2
save_every_n_epochs = 1
save_precision = "fp16"
output_dir = "/out"
output_name = "dragon"
frobnicate = 3
dataset_config = "data.toml"
"""
DATASET = """
[general]
shuffle_caption = true
keep_tokens = 1
enable_bucket = true
[[datasets]]
resolution = 512
batch_size = 4
  [[datasets.subsets]]
  image_dir = "/pictures/dragons"
  num_repeats = 5
  caption_dropout_rate = 0.1
  [[datasets.subsets]]
  image_dir = "/pictures/more"
  [[datasets.subsets]]
  image_dir = "/pictures/reg"
  is_reg = true
"""


def made(given: Given, dataset: str = "") -> tuple[Recipe, dict[str, Line]]:
    found = translate(given, dataset)
    return recipe.convert(found.tree), {line.key: line for line in found.lines}


def of(**options: Any) -> tuple[Recipe, dict[str, Line]]:
    return made(Given(options=options))


def test_a_config_and_its_dataset_config_become_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG)
    (tmp_path / "data.toml").write_text(DATASET)
    given = read([tmp_path / "config.toml"])
    assert [path.name for path in given.read] == ["config.toml", "data.toml"]
    one, lines = made(given)
    assert one.base.name == "runwayml/stable-diffusion-v1-5"
    network = one.network
    assert (network.rank, network.alpha, network.conv_rank, network.conv_alpha) == (32, 16, 8, 4)
    assert set(network.targets) >= {"to_q", "ff", "proj", "conv"}
    assert (network.rank_dropout, network.max_norm) == (0.1, 1.0)
    optimizer = one.optimizer
    assert (optimizer.kind, optimizer.learning_rate, optimizer.d_coef) == ("prodigy", 1.0, 2.0)
    assert optimizer.bias_correction and optimizer.safeguard_warmup
    assert (optimizer.beta1, optimizer.beta2, optimizer.weight_decay) == (0.9, 0.99, 0.01)
    assert optimizer.text_encoder_rate == 1.0
    assert (one.schedule.kind, one.schedule.cycles) == ("cosine_with_restarts", 3)
    assert (one.training.epochs, one.training.max_steps) == (10, 0)
    assert (one.training.batch_size, one.training.accumulation) == (4, 2)  # the dataset's
    assert (one.loss.weighting, one.noise.offset) == ("min_snr", 0.0357)
    dataset = one.dataset
    assert (dataset.name, dataset.repeats, dataset.resolution) == ("dragons", 5, 512)
    assert (dataset.shuffle_tags, dataset.keep_tokens, dataset.flip) == (True, 1, False)
    assert dataset.caption_dropout == 0.1
    assert (dataset.clip_skip, dataset.regularisation) == (2, "reg")
    assert one.output.name == "dragon" and one.save.every_epochs == 1
    left_out = sorted(
        (line.key, line.value) for line in translate(given).lines if line.verdict == "left out"
    )
    assert left_out == [
        ("frobnicate", "3"), ("image_dir", "/pictures/more"),
        ("network_args block_dims", "[1, 2]"),
    ]  # fmt: skip
    assert (dataset.enable_bucket, dataset.min_bucket_reso, dataset.max_bucket_reso) == (
        True, 256, 1024,
    )  # fmt: skip
    assert dataset.bucket_reso_steps == 64 and lines["min_bucket_reso"].words
    assert lines["frobnicate"].words == "lora-tui does not know it"
    assert lines["cache_latents"].verdict == "default"
    assert lines["lr_scheduler_power"].words == "read by polynomial alone"


def test_a_command_line_becomes_a_recipe(tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text(
        "#!/bin/sh\n# my training\n"
        "accelerate launch --num_cpu_threads_per_process 1 train_network.py \\\n"
        '  --pretrained_model_name_or_path="C:\\models\\sd15" --train_data_dir=/data/10_ohwx \\\n'
        "  --resolution=512,768 --network_dim 8 --network_alpha=4 \\\n"
        '  --optimizer_type AdamW8bit --optimizer_args "weight_decay=0.05" "betas=0.9,0.98" \\\n'
        "  --unet_lr 1e-4 --text_encoder_lr 5e-5 --lr_scheduler constant_with_warmup \\\n"
        "  --lr_warmup_steps 0.1 --max_train_steps 2000 --flip_aug --sample_prompts=p.txt \\\n"
        "  --sample_every_n_steps 200 --sample_sampler euler_a --noise_offset=0\n"
    )
    (tmp_path / "p.txt").write_text(
        "# the first\nohwx dragon --n blurry --w 512 --h 512 --d 7 --l 6.5 --s 28\n"
        "a castle --n blurry --s 30\n"
    )
    one, lines = made(read([script]), dataset="mine")
    assert one.base.name == "C:\\models\\sd15"
    assert (one.dataset.name, one.dataset.repeats) == ("mine", 10)
    assert one.dataset.resolution == 512 and one.dataset.flip
    assert lines["resolution"].verdict == "nearly"
    assert (one.optimizer.kind, one.optimizer.weight_decay) == ("adamw8bit", 0.05)
    assert lines["optimizer_type"].verdict == "taken"
    assert (one.optimizer.learning_rate, one.optimizer.text_encoder_rate) == (1e-4, 5e-5)
    assert (one.schedule.kind, one.schedule.warmup_steps) == ("constant", 200)
    assert one.training.max_steps == 2000
    sample = one.sample
    assert sample.prompts == ["ohwx dragon", "a castle"] and sample.negative == "blurry"
    assert (sample.steps, sample.cfg, sample.seed) == (28, 6.5, 7)
    assert (sample.sampler, sample.every_steps, sample.every_epochs) == ("Euler a", 200, 0)
    assert not sample.at_first
    assert lines["sample --s"].verdict == "nearly" and lines["sample --n"].verdict == "taken"
    # ten epochs of 100 steps: as many steps as kohya would make
    assert recipe.total_steps(one, 40) == 2000


def test_repeats_are_in_the_names_of_a_folders_folders(tmp_path: Path) -> None:
    (tmp_path / "10_a dog").mkdir()
    one, _ = of(train_data_dir=str(tmp_path))
    assert one.dataset.repeats == 10
    (tmp_path / "5_more").mkdir()
    one, lines = of(train_data_dir=str(tmp_path))
    assert one.dataset.repeats == 1 and "repeat 5, 10 times" in lines["train_data_dir"].words
    _, lines = of(train_data_dir=str(tmp_path / "not here"))
    assert "10_dog" in lines["train_data_dir"].words
    assert f"import '{tmp_path}/not here'" in lines["train_data_dir"].words


def test_how_many_checkpoints_stay() -> None:
    one, _ = of(save_every_n_epochs=2, save_last_n_epochs=5)
    assert (one.save.every_epochs, one.save.keep_last) == (2, 5)
    one, _ = of(save_every_n_steps=100, save_last_n_steps=300)
    assert one.save.keep_last == 4  # at step 500 kohya has 200, 300, 400 and 500
    for alone in ({"save_last_n_steps": 300}, {"save_last_n_epochs": 5}):
        assert of(**alone)[0].save.keep_last == 0


def test_each_text_encoder_has_its_rate() -> None:
    for given, rate, rates in (
        ([1e-4, 5e-5], 1e-4, ["text_encoder_2.*=0.5"]),
        ([1e-4, 0], 1e-4, ["text_encoder_2.*=0"]),
        ([0, 1e-4], 1e-4, ["text_encoder.*=0"]),
        ([1e-4], 1e-4, []),
    ):
        one, _ = of(text_encoder_lr=given)
        assert (one.optimizer.text_encoder_rate, one.optimizer.rates) == (rate, rates)


def test_accelerates_processes_are_taken(tmp_path: Path) -> None:
    call = "accelerate launch --multi_gpu --num_processes=4 train_network.py --seed 1"
    assert command_line(call, tmp_path) == {"seed": 1, "num_processes": 4}
    one, _ = of(num_processes=4)
    assert one.training.num_processes == 4


def test_every_flag_of_a_sample_prompt_gets_its_word() -> None:
    prompts = ["a dog --ss euler_a --am 0.5", "a cat --n blurry --ss ddim"]
    one, lines = made(Given(prompts=prompts))
    assert one.sample.sampler == "Euler a" and not one.sample.negative
    assert lines["sample --n"].verdict == lines["sample --am"].verdict == "left out"


def test_what_kohya_does_unasked_is_written_down() -> None:
    one, lines = of(network_module="networks.lora")
    assert (one.network.rank, one.network.alpha) == (4, 1.0)
    assert (one.optimizer.learning_rate, one.training.max_steps) == (2e-6, 1600)
    assert one.optimizer.text_encoder_rate == 2e-6
    assert not one.dataset.flip and one.sample.every_epochs == 0 and not one.sample.at_first
    assert of(sample_at_first=True)[0].sample.at_first
    assert lines["network_dim"].words == "kohya's own default"


@pytest.mark.parametrize(
    ("options", "kind", "decay"),
    [
        ({"optimizer_type": "Lion"}, "lion", 0.0),
        ({"optimizer_type": "lion8bit", "optimizer_args": ["weight_decay=0.1"]}, "lion", 0.1),
        ({"use_8bit_adam": True}, "adamw8bit", 0.01),
        ({"optimizer_type": "AdamWScheduleFree", "lr_scheduler": "constant"}, "schedule_free", 0.0),
        ({"optimizer_type": "pytorch_optimizer.CAME"}, "came", 0.0),
        ({"optimizer_type": "DAdaptAdam", "learning_rate": 1.0}, "prodigy", 0.0),
        (
            {"optimizer_type": "Adafactor",
             "optimizer_args": ["relative_step=False", "scale_parameter=False"]},
            "adafactor", 0.0,
        ),
    ],
)  # fmt: skip
def test_optimisers(options: dict[str, Any], kind: str, decay: float) -> None:
    one, lines = of(**options, network_train_unet_only=True)
    assert (one.optimizer.kind, one.optimizer.weight_decay) == (kind, decay)
    assert one.optimizer.text_encoder_rate == 0
    assert not [line for line in lines.values() if line.verdict == "left out"]
    if kind == "lion":
        assert one.optimizer.beta2 == 0.99


def test_crops_and_colours_are_taken_with_what_differs(tmp_path: Path) -> None:
    one, lines = of(random_crop=True, color_aug=True, cache_latents=False)
    assert (one.dataset.random_crop, one.dataset.color_jitter) == (True, 0.05)
    for key in ("random_crop", "color_aug"):
        assert lines[key].verdict == "nearly" and "dataset.versions" in lines[key].words
    (tmp_path / "data.toml").write_text(
        "[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = 'dogs'\n"
        "random_crop = true\n"
    )
    one, lines = made(read([tmp_path / "data.toml"]))
    assert one.dataset.random_crop and lines["random_crop"].verdict == "nearly"
    plain, lines = of(random_crop=False, color_aug="yes")
    assert plain.dataset == of()[0].dataset
    assert (lines["random_crop"].verdict, lines["color_aug"].verdict) == ("default", "left out")


def test_what_cannot_be_done_says_why() -> None:
    _, lines = of(
        optimizer_type="SGDNesterov", lr_scheduler="inverse_sqrt", network_module="lycoris.kohya",
        network_args=["algo=boft", "preset=mine"], masked_loss=True, color_aug=False,
        sample_sampler="pndm", network_dim="many", optimizer_args=["momentum=0.9"],
    )  # fmt: skip
    left_out = {key: line.words for key, line in lines.items() if line.verdict == "left out"}
    assert left_out.keys() == {
        "optimizer_type", "lr_scheduler", "network_args algo",
        "network_args preset", "masked_loss", "sample_sampler", "network_dim",
        "optimizer_args momentum",
    }  # fmt: skip
    assert all(left_out.values())
    assert lines["color_aug"].verdict == "default"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["algo=loha", "preset=attn-only"], {"kind": "loha", "targets": ["to_q", "to_k", "to_v",
                                                                         "to_out.0"]}),
        (["algo=lokr", "factor=8", "decompose_both=True", "full_matrix=False"],
         {"kind": "lokr", "factor": 8, "decompose_both": True, "rank": 16}),
        (["algo=lokr", "full_matrix=True"], {"kind": "lokr", "factor": 0, "rank": 1024}),
        (["algo=locon", "dora_wd=True", "conv_dim=4", "conv_alpha=2"],
         {"kind": "dora", "conv_rank": 4, "conv_alpha": 2.0}),
    ],
)  # fmt: skip
def test_lycoris_algorithms(args: list[str], expected: dict[str, Any]) -> None:
    one, lines = of(
        network_module="lycoris.kohya", network_args=args, network_dim=16, network_dropout=0.1,
    )  # fmt: skip
    assert {name: getattr(one.network, name) for name in expected} == expected
    assert ("conv" in one.network.targets) == ("preset=attn-only" not in args)
    left_out = {key for key, line in lines.items() if line.verdict == "left out"}
    assert left_out == {"network_dropout"}  # of a plain LoRA alone


def test_regularisation_masks_and_reading() -> None:
    one, lines = of(
        train_data_dir="/p/10_dog", reg_data_dir="/p/1_dog", prior_loss_weight=0.5,
        masked_loss=True, conditioning_data_dir="/p/masks", alpha_mask=True, clip_skip=2,
        max_token_length=225, enable_wildcard=True, gradient_checkpointing=True,
        v_parameterization=True, zero_terminal_snr=True, torch_compile=True,
        dynamo_backend="inductor",
    )  # fmt: skip
    assert not [key for key, line in lines.items() if line.verdict == "left out"]
    dataset = one.dataset
    assert (dataset.name, dataset.regularisation, one.loss.prior_weight) == (
        "dog",
        "dog-class",
        0.5,
    )
    assert (dataset.mask_folder, dataset.alpha_mask) == ("/p/masks", False)
    assert (dataset.clip_skip, dataset.windows, dataset.wildcards) == (2, 3, True)
    assert one.training.checkpointing and one.training.compile and one.noise.zero_terminal_snr
    _, lines = of(masked_loss=True, gradient_checkpointing=True, network_dropout=0.1,
                  torch_compile=True, optimizer_type="AdamWScheduleFree",
                  lr_scheduler="cosine")  # fmt: skip
    left_out = {key for key, line in lines.items() if line.verdict == "left out"}
    assert left_out == {
        "masked_loss", "gradient_checkpointing", "lr_scheduler", "torch_compile",
    }  # fmt: skip


def test_ranks_and_rates_of_blocks() -> None:
    dims = [4] * 12 + [8] + [16] * 12
    one, lines = of(
        network_args=[
            f"block_dims={','.join(map(str, dims))}", "down_lr_weight=" + ",".join(["0.5"] * 12),
            "mid_lr_weight=0", "up_lr_weight=sine",
        ],
    )  # fmt: skip
    assert one.network.ranks[0] == "IN01=4/1" and "OUT11=16/1" in one.network.ranks
    assert one.optimizer.rates == [*(f"IN{n:02d}=0.5" for n in (1, 2, 4, 5, 7, 8)), "M00=0"]
    assert lines["network_args up_lr_weight"].verdict == "left out"


def test_options_read_by_another_choice_alone_do_not_contradict() -> None:
    """Kohya lets them stand; our recipe refuses them, so they must not come through."""
    one, lines = of(
        huber_c=0.2, lr_scheduler_num_cycles=4, multires_noise_discount=0.2, keep_tokens=2,
        lr_warmup_steps=100, lr_scheduler="constant", debiased_estimation_loss=True,
        min_snr_gamma=0,
    )  # fmt: skip
    assert one.loss.weighting == "debiased" and one.schedule.warmup_steps == 0
    for key in ("huber_c", "lr_scheduler_num_cycles", "multires_noise_discount", "keep_tokens"):
        assert lines[key].verdict == "default", key


def test_what_is_left_out_for_something_else_is_not_said_to_be_taken() -> None:
    """Each option has one line, and the recipe has what the line says."""
    options: dict[str, Any] = {
        "gradient_checkpointing": True, "torch_compile": True, "save_last_n_epochs": 3,
        "noise_offset": 0.05, "multires_noise_iterations": 6, "multires_noise_discount": 0.3,
        "network_module": "lycoris.kohya", "network_args": ["algo=locon", "dropout=0.2"],
        "network_dropout": 0.1,
    }  # fmt: skip
    found = translate(Given(options=options))
    one = recipe.convert(found.tree, "config.toml")
    said = [(line.key, line.verdict) for line in found.lines]
    for key in ("gradient_checkpointing", "torch_compile", "save_last_n_epochs",
                "multires_noise_iterations"):  # fmt: skip
        assert [verdict for name, verdict in said if name == key] == ["left out"], key
    assert (one.noise.offset, one.noise.multires_iterations) == (0.05, 0)
    assert not one.training.checkpointing and one.save.keep_last == 0
    assert one.network.dropout == 0.2  # as kohya hands it to LyCORIS
    lines = {line.key: line for line in translate(Given(options={"min_snr_gamma": 5.0})).lines}
    assert (lines["min_snr_gamma"].verdict, lines["min_snr_gamma"].ours) == (
        "taken", "loss.weighting",
    )  # fmt: skip


def test_seeds_of_several_prompts_are_said_to_follow_the_first() -> None:
    one, lines = made(Given(prompts=["a dog --d 42", "a cat --d 7"]))
    assert one.sample.seed == 42 and lines["sample --d"].verdict == "nearly"
    _, lines = made(Given(prompts=["a dog --d 41", "a cat"]))
    assert lines["sample --d"].verdict == "taken"


def test_every_option_of_the_tables_is_known_to_the_recipe() -> None:
    ours = {option.key for option in recipe.options()}
    assert set(tables.SAME.values()) <= ours
    assert not set(tables.ANYWAY) & set(tables.NOT_HERE)
    assert not (set(tables.ANYWAY) | set(tables.NOT_HERE)) & set(tables.SAME)
    for key in (*tables.ANYWAY, *tables.NOT_HERE):
        found = translate(Given(options={key: 2}))
        (line,) = (line for line in found.lines if line.key == key)
        assert line.verdict == ("default" if key in tables.ANYWAY else "left out"), key


def test_bad_files_are_refused_by_name(tmp_path: Path) -> None:
    def refused(name: str, content: bytes | None) -> str:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(LoraError) as caught:
            read([path])
        assert str(path) in caught.value.message
        return caught.value.message

    assert "There is no file" in refused("none.toml", None)
    assert "not valid TOML" in refused("torn.toml", b"[network\n")
    assert "UTF-8" in refused("latin.toml", b'a = "\xe9"')
    assert "JSON" in refused("gui.json", b"{}")
    assert "[[datasets]]" in refused("odd.toml", b"datasets = 3\n")
    assert "[[datasets]]" in refused("odder.toml", b"datasets = [3]\n")
    assert "command line" in refused("torn.sh", b"python train_network.py --a 'b\n")


def test_a_contradiction_of_the_result_is_said_with_the_files_name() -> None:
    prodigy = {"optimizer_type": "Prodigy", "unet_lr": 1.0, "text_encoder_lr": 0.5}
    given = Given(options=prodigy)
    with pytest.raises(LoraError, match=r"my\.toml: Prodigy finds one rate for all") as caught:
        recipe.convert(translate(given).tree, "my.toml")
    assert caught.value.code is Code.INVALID_RECIPE


def test_command_lines_of_every_shell() -> None:
    for continued in ("\\\n", "^\n", "`\r\n"):
        text = f'python sdxl_train_network.py --a=1 {continued} --b "x y" --c'
        assert command_line(text, Path("x")) == {"a": 1, "b": "x y", "c": True}


def test_a_recipe_of_stable_diffusion_2_asks_for_such_a_base() -> None:
    told = translate(Given(options={"v2": True, "v_parameterization": True}))
    assert recipe.convert(told.tree).base.family == "sd2"
    assert recipe.convert(translate(Given(options={"v2": False})).tree).base.family == "any"


def test_a_call_of_sdxls_script_asks_for_such_a_base(tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    for name, family in (("sdxl_train_network.py", "sdxl"), ("train_network.py", "any")):
        script.write_text(f"python {name} --network_dim=8 --train_data_dir=/data/x\n")
        assert made(read([script]))[0].base.family == family


@pytest.mark.parametrize("name", ["fp8_base", "fp8_base_unet"])
def test_a_base_in_fp8_is_one_here(name: str) -> None:
    one, lines = of(**{name: True})
    assert one.base.quantize == "fp8" and lines[name].ours == "base.quantize"
    one, lines = of(**{name: False})
    assert one.base.quantize == "none" and lines[name].verdict == "default"
