import dataclasses

import pytest

from kgpt_jax.config import (
    BiographiesConfig,
    Config,
    ModelConfig,
    TrainConfig,
    UserError,
    from_dict,
    leaves,
    load_recipe,
    override,
    read_options,
    to_dict,
    write_options,
)
from kgpt_jax.data.mixture import weights
from kgpt_jax.data.objectives import OBJECTIVES
from kgpt_jax.data.stage_data import recipe_of
from kgpt_jax.model.variants import lookup
from tests.commands import CHECKOUT


def test_json_both_ways():
    config = override(Config(), {"model.n_layer": 6, "pretrain.epochs": 650, "data.ascii_pairs": True})
    assert from_dict(to_dict(config)) == config
    assert hash(config) == hash(from_dict(to_dict(config)))


def test_options_are_one_text_whatever_their_order():
    config = override(Config(), {"model.options": " b=02, a=1 "})
    assert config.model.options == "a=1,b=2" and config == override(Config(), {"model.options": "a=1,b=2"})
    assert override(config, {"model.options.a": 7, "model.options.c": 3}).model.options == "a=7,b=2,c=3"
    assert from_dict(to_dict(config)) == config
    assert read_options(write_options({"b": 2, "a": 1})) == {"a": 1, "b": 2} and read_options("") == {}


def test_override_changes_one_field():
    config = override(Config(), {"model.n_layer": 6})
    assert config.model == dataclasses.replace(ModelConfig(), n_layer=6)
    assert override(Config(), {"model.dropout": 0}).model.dropout == 0.0
    assert {name for name in leaves() if leaves()[name] != leaves(config)[name]} == {"model.n_layer"}


def test_what_is_unknown_or_mistyped_is_refused_with_the_choices():
    with pytest.raises(
        UserError, match=r"unknown config field 'model.layers'; choose from seed, n_seeds, model"
    ):
        override(Config(), {"model.layers": 6})
    with pytest.raises(UserError, match="model.n_layer is '6': expected int"):
        override(Config(), {"model.n_layer": "6"})
    with pytest.raises(UserError, match="data.ascii_pairs is 1: expected bool"):
        override(Config(), {"data.ascii_pairs": 1})
    with pytest.raises(UserError, match="model is 3: expected a section"):
        from_dict({"model": 3})


@pytest.mark.parametrize(
    "kind, changes, complaint",
    [
        (ModelConfig, {"n_embd": 100, "n_head": 8}, "n_embd 100 is not a multiple of model.n_head 8"),
        (ModelConfig, {"seq_len": 129}, "model.seq_len 129 is beyond model.block_size 128"),
        (ModelConfig, {"dropout": 1.0}, "model.dropout is 1.0: from 0 to below 1"),
        (ModelConfig, {"n_layer": 0}, "model.n_layer is 0: give 1 to 1,000"),
        (ModelConfig, {"dtype": "int8"}, "'int8': choose from float32, bfloat16"),
        (
            ModelConfig,
            {"options": "window"},
            "model.options is 'window': give names with whole numbers, as in",
        ),
        (ModelConfig, {"options": "window=1.5"}, "give names with whole numbers, as in attention_block=4"),
        (ModelConfig, {"options": "window=-1"}, "give names with whole numbers, as in attention_block=4"),
        (ModelConfig, {"options": "a=1,a=2"}, "model.options is 'a=1,a=2': give a once"),
        (TrainConfig, {"epochs": 0}, "epochs is 0"),
        (TrainConfig, {"text_tokens": 10**20}, "text_tokens is 1" + "0" * 20 + ": give at most 1,000,000"),
        (TrainConfig, {"learning_rate": -1.0}, "learning_rate is -1.0"),
        (TrainConfig, {"beta2": 1.0}, "beta2 is 1.0"),
        (Config, {"seed": -1}, "seed is -1: give 0 to 4,294,967,295"),
        (Config, {"seed": 2**32}, "seed is 4294967296: give 0 to 4,294,967,295"),
        (BiographiesConfig, {"seed": 10**20}, "data.biographies.seed is 1" + "0" * 20),
    ],
)
def test_values_out_of_range_are_refused(kind, changes, complaint):
    with pytest.raises(UserError, match=complaint):
        kind(**changes)


@pytest.mark.parametrize("name", sorted(path.stem for path in (CHECKOUT / "configs").glob("*.py")))
def test_every_recipe_loads_in_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_recipe(f"configs/{name}.py")
    lookup(config.model)
    for stage in ("pretrain", "finetune", "scratch"):
        assert weights(recipe_of(config, stage)).keys() <= OBJECTIVES.keys()
    assert load_recipe(name) == load_recipe(f"{name}.py") == config


def test_a_recipe_of_the_users_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best.py").write_text(
        "from kgpt_jax.config import *\ndef get_config(): return Config(seed=5)"
    )
    assert load_recipe("best.py").seed == 5
    assert load_recipe("best").seed == load_recipe("configs/best.py").seed == 0
    with pytest.raises(UserError, match="no recipe 'mine/best.py'"):
        load_recipe("mine/best.py")


def test_the_courses_recipes_are_the_courses_numbers():
    old, new = load_recipe("configs/course_2021.py"), load_recipe("configs/course_2024.py")
    for config in (old, new):
        assert config.model == dataclasses.replace(ModelConfig(), seq_len=config.model.seq_len)
        for stage in ("pretrain", "finetune", "scratch"):
            cfg = getattr(config, stage)
            assert (cfg.beta1, cfg.beta2, cfg.weight_decay, cfg.clip_norm) == (0.9, 0.95, 0.1, 1.0)
            assert cfg.warmup_tokens == 10_240 and cfg.first_step_at_peak
            assert not cfg.group_by_length
        assert (config.pretrain.epochs, config.finetune.epochs, config.scratch.epochs) == (650, 10, 75)
        assert (config.pretrain.batch_size, config.finetune.batch_size) == (128, 256)
        assert (config.pretrain.learning_rate, config.finetune.learning_rate) == (6e-3, 6e-4)
        assert config.data.ascii_pairs
    assert (old.model.seq_len, new.model.seq_len) == (127, 128)
    assert old.pretrain.final_tokens == 200 * 2938 * 128
    assert new.pretrain.final_tokens == 650 * 2938 * 128


def test_a_bad_recipe_is_named(tmp_path):
    with pytest.raises(UserError, match="no recipe 'configs/curse.py'; choose from best, .*, course_2021, "):
        load_recipe("configs/curse.py")
    recipe = tmp_path / "mine.py"
    head = "from kgpt_jax.config import *\ndef get_config(): return "
    for text, complaint in [
        ("x = 1", r"mine.py': it has no get_config\(\)"),
        (head + "Config(seed=-1)", "mine.py': seed is -1"),
        ("def get_config(): return {}['x']", "KeyError: 'x'"),
        ("def get_config(", "SyntaxError"),
        (
            "from kgpt_jax.config import *\ndef get_config(): return Config(epoch=1)",
            "'epoch'; fields are seed",
        ),
        (head + "1", r"get_config\(\) must return a Config"),
        (head + "Config(seed='x')", "'str' and 'int'"),
        (
            "from kgpt_jax.config import *\ndef get_config(): return Config(seed=1.5)",
            "seed is 1.5: expected int",
        ),
    ]:
        recipe.write_text(text)
        with pytest.raises(UserError, match=complaint):
            load_recipe(str(recipe))
