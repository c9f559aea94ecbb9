"""The recipe says no to what it does not know, and says what was meant."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from shared import recipe
from shared.errors import Code, LoraError

CONFIGS = Path(str(resources.files("configs")))


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(LoraError) as caught:
        recipe.parse(text, list(overrides))
    assert caught.value.code is Code.INVALID_RECIPE
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("[network]\nrnk = 4", "network.rank"),
        ("[training]\nepoch = 4", "training.epochs"),
        ("[network]\nnetwork_dim = 4", "network.rank"),  # another trainer's name for it
        ("[training]\nlearning_rate = 1e-4", "optimizer.learning_rate"),  # the wrong section
        ("train_batch_size = 4", "training.batch_size"),
        ("[dataset]\ncolor_aug = true", "dataset.color_jitter"),
        ("[netwrk]\nrank = 4", "[network]"),
    ],
)
def test_an_unknown_key_is_refused_and_the_right_one_suggested(text: str, meant: str) -> None:
    assert f"Did you mean {meant}?" in refusal(text)


def test_what_is_not_here_is_refused_with_the_reason() -> None:
    with pytest.raises(LoraError, match=r"dataset\.face_crop_aug_range.*Faces are not looked for"):
        recipe.parse('[dataset]\nface_crop_aug_range = "2,4"')


def test_versions_are_of_something_that_differs() -> None:
    with pytest.raises(
        LoraError, match=r"dataset\.versions is read only with dataset\.random_crop"
    ):
        recipe.parse("[dataset]\nversions = 4")
    assert recipe.versions(recipe.parse("[dataset]\nrandom_crop = true\nversions = 4")) == 4
    assert recipe.versions(recipe.parse("[dataset]\ncolor_jitter = 0.1")) == 8
    assert recipe.versions(recipe.parse("")) == 1


def test_what_a_named_family_has_no_use_for_is_said_with_the_recipe() -> None:
    for text in ('family = "sdxl"\n[noise]\nshift = 3', 'family = "flux"\n[noise]\noffset = 0.1'):
        with pytest.raises(LoraError, match="Leave it at"):
            recipe.parse(f"[base]\n{text}")


def test_an_unknown_key_like_no_other_points_to_the_list_of_options() -> None:
    assert "lora-tui recipe options" in refusal("[network]\nzzzz = 4")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[network]\nrank = "8"', 'a whole number at least 1 and at most 1024; not "8"'),
        ("[network]\nrank = 8.5", "must be a whole number"),
        ("[optimizer]\nlearning_rate = true", "must be a number"),
        ('[dataset]\nflip = "yes"', 'dataset.flip must be true or false; not "yes"'),
        ('[network]\ntargets = "to_q"', "network.targets must be a list, each entry one of"),
        ('[network]\ntargets = ["to_q", "to_z"]', "network.targets[1] must be one of to_q, to_k"),
        ("[sample]\nprompts = [3]", "sample.prompts[0] must be text"),
        ("network = 4", "network must be a section, [network], with kind, rank, alpha, targets"),
        ("[[network]]\nrank = 4", "network must be a section"),
    ],
)
def test_a_wrong_type_is_said_in_the_users_words(text: str, words: str) -> None:
    assert words in refusal(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[network]\nrank = 0", "at least 1"),
        ("[network]\nalpha = 0", "above 0"),
        ("[optimizer]\nlearning_rate = 0", "above 0"),
        ("[optimizer]\nlearning_rate = nan", "must be a number"),
        ("[optimizer]\nmax_grad_norm = inf", "optimizer.max_grad_norm must be a number"),
        ("[optimizer]\nbeta1 = 1.0", "below 1"),
        ("[training]\nseed = -1", "at least 0"),
        ("[training]\nbatch_size = 99999", "at most 1024"),
        ("[dataset]\nresolution = 100", "96 is near"),
        ("[dataset]\nresolution = 32", "at least 64"),
        ("[network]\ntargets = []", "at least one"),
        ('[network]\ntargets = ["to_q", "to_q"]', "twice"),
        ('[base]\nname = ""', "not empty"),
        ("[optimizer]\nd_coef = 2", 'read only with optimizer.kind = "prodigy"'),
        ('[optimizer]\nkind = "adafactor"\nbeta1 = 0.5', "optimizer.beta1 is read only with"),
        ('[optimizer]\nkind = "lion"\nepsilon = 1e-6', "optimizer.epsilon is read only with"),
        ('[optimizer]\nkind = "prodigy"\nlora_plus = 4', "one rate for all weights"),
        (
            '[optimizer]\nkind = "prodigy"\nlearning_rate = 1\ntext_encoder_rate = 0.5',
            "must be 0 or equal",
        ),
        ("[schedule]\ncycles = 3", "cosine_with_restarts"),
        ("[schedule]\nfloor = 0.1", "a schedule.kind that falls"),
        ("[loss]\nmin_snr_gamma = 1", 'read only with loss.weighting = "min_snr"'),
        ("[loss]\nhuber_c = 0.2", 'read only with loss.kind = "huber"'),
        ("[noise]\noffset = 0.1\nmultires_iterations = 6", "two ways to the same end"),
        ("[noise]\nmin_timestep = 500\nmax_timestep = 500", "leaves no timestep"),
        ("[network]\nconv_rank = 4", '"conv" among network.targets'),
        ("[dataset]\nkeep_tokens = 1", "dataset.shuffle_tags"),
        ('[schedule]\nkind = "cosin"', "Did you mean cosine?"),
        ('[sample]\nsampler = "euler a"', "Did you mean Euler a?"),
        ('[output]\nname = "a/b"', "without folders"),
        ('[output]\nname = "a\\nb"', "control characters"),
        (f'[output]\nname = "{"龍" * 100}"', "bytes"),
    ],
)
def test_an_impossible_value_is_refused_with_its_bound(text: str, words: str) -> None:
    assert words in refusal(text)


def test_warm_up_longer_than_the_run_is_a_contradiction() -> None:
    text = "[schedule]\nwarmup_steps = 100\n[training]\nmax_steps = 50"
    assert "would last the whole run" in refusal(text)


@pytest.mark.parametrize("what", ["compile", "checkpointing"])
def test_dropouts_that_draw_at_each_forward_are_a_contradiction(what: str) -> None:
    text = f"[training]\n{what} = true\n[network]\nrank_dropout = 0.1"
    assert f"training.{what}" in refusal(text) and "Take one of them" in refusal(text)


def test_a_long_value_is_shortened_in_the_message() -> None:
    assert len(refusal(f'[sample]\nprompts = ["{"a" * 10_001}"]')) < 400


def test_broken_toml_names_the_file_and_the_line(tmp_path: Path) -> None:
    path = tmp_path / "my recipe 🐉.toml"
    path.write_text("[network\nrank = 4")
    with pytest.raises(LoraError, match=r"my recipe 🐉\.toml is not valid TOML.*line 1"):
        recipe.load(path)


def test_a_file_that_is_not_text_is_not_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"title = '\xff\xfe'")
    with pytest.raises(LoraError, match="not UTF-8"):
        recipe.load(path)


def test_a_missing_recipe_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(LoraError, match="lora-tui recipe list") as caught:
        recipe.load(tmp_path / "none.toml")
    assert caught.value.code is Code.NOT_FOUND


def test_set_overrides_the_file_with_toml_values_and_bare_words() -> None:
    made = recipe.parse(
        "[network]\nrank = 4",
        ["network.rank=16", "schedule.kind=cosine", 'network.targets=["to_q"]', "title=my dragons"],
    )
    assert made.network.rank == 16
    assert made.schedule.kind == "cosine"
    assert made.network.targets == ["to_q"]
    assert made.title == "my dragons"


def test_a_value_set_with_a_line_break_stays_one_value() -> None:
    assert recipe.parse("", ["title=a\nbase = 3"]).title == "a\nbase = 3"


@pytest.mark.parametrize("override", ["network.rank", "=4", " =4", "network.rank.deep=1"])
def test_a_set_that_names_nothing_is_refused(override: str) -> None:
    assert "--set" in refusal("[network]\nrank = 4", override)


def test_every_option_explains_itself() -> None:
    for option in recipe.options():
        assert option.must, option.key
        assert option.help or option.key == "title", option.key


def test_a_recipe_survives_being_written_and_read() -> None:
    made = recipe.parse('title = "x"', ["network.rank=5", 'sample.prompts=["a \\"b\\"\\n龍"]'])
    assert recipe.parse(recipe.dump(made)) == made


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda p: p.name)
def test_every_recipe_we_ship_is_valid_and_has_a_title(path: Path) -> None:
    assert recipe.load(path).title


def test_the_lessons_recipe_is_the_lessons() -> None:
    made = recipe.load(CONFIGS / "lesson.toml")
    assert made.optimizer.learning_rate == 1e-4
    assert (made.schedule.kind, made.schedule.warmup_steps) == ("constant", 0)
    assert (made.training.seed, made.training.batch_size, made.training.epochs) == (42, 1, 10)
    assert (made.dataset.resolution, made.dataset.flip, made.network.rank) == (512, True, 4)
    assert made.network.targets == ["to_q", "to_k", "to_v", "to_out.0"]
    assert made.sample.prompts == ["cute dragon creature"]
    assert recipe.total_steps(made, pictures=833) == 8330


def test_steps_count_the_last_incomplete_batch_and_stop_at_the_limit() -> None:
    made = recipe.parse("[training]\nbatch_size = 4\nepochs = 3\n[dataset]\nrepeats = 2")
    assert recipe.steps_per_epoch(made, pictures=5) == 3
    assert recipe.total_steps(made, pictures=5) == 9
    limited = recipe.parse("[training]\nmax_steps = 7\nepochs = 3")
    assert recipe.total_steps(limited, pictures=5) == 7
