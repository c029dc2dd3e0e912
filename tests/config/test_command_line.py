"""Flags over recipe over defaults; mistakes are answered with the nearest name; a resumed run computes the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from transfer.config.command_line import (
    build_config,
    load_config,
    parse_choose_config,
    parse_config,
    parse_probe_config,
    save_config,
)
from transfer.config.problems import find_problems
from transfer.config.schema import FinetuneConfig, OptimConfig, TrainerConfig
from transfer.errors import BadValue, UserError

CONFIGS = Path(__file__).parents[2] / "configs"


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_without_arguments_the_defaults_hold() -> None:
    assert parse_config([]) == (FinetuneConfig(recipe="none", method="full"), None)


def test_flags_go_over_the_recipe_and_the_recipe_over_the_defaults(tmp_path: Path) -> None:
    recipe = write(tmp_path / "r.yaml", "backbone: b1\noptim: {lr: 0.5, momentum: 0.8}\n")
    for argv in (
        ["--config", recipe, "--optim.lr", "0.25"],
        ["--optim.lr=0.25", f"--config={recipe}", "--optim.lr=0.25"],
    ):
        config, _ = parse_config(argv)
        assert (config.backbone, config.optim) == ("b1", OptimConfig(lr=0.25, momentum=0.8))


@pytest.mark.parametrize(
    ("text", "value"), [("3e-2", 0.03), ("1e-05", 1e-5), ("3.0e-2", 0.03), ("1", 1.0), ("2E-3", 0.002)]
)
def test_numbers_in_yaml_are_floats_in_every_notation(tmp_path: Path, text: str, value: float) -> None:
    for argv in (["--config", write(tmp_path / "r.yaml", f"optim:\n  lr: {text}\n")], ["--optim.lr", text]):
        lr = parse_config(argv)[0].optim.lr
        assert lr == value and isinstance(lr, float)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("paper", "paper"),
        ("tf_efficientnet_b0.ns_jft_in1k", "tf_efficientnet_b0.ns_jft_in1k"),
    ],
)
def test_pretrained_is_a_switch_or_a_name(text: str, value: bool | str) -> None:
    assert parse_config(["--pretrained", text])[0].pretrained == value


def test_a_sweeps_null_arrives_from_its_agent() -> None:
    values = {"optim.sam_rho": None, "dropout": None, "protocol": None, "optim": {"lr": 0.1, "sam_rho": None}}
    values |= {"trainer.gradient_clip_val": None, "data.per_class": None, "monitor": None, "compile": True}
    arguments = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    for form in ("args", "args_no_equals"):
        config = parse_config(["--optim.sam_rho", "0.05", "--dropout", "0.5", *arguments[form]])[0]
        assert config == replace(FinetuneConfig(compile=True, method="full", recipe="none"), optim=OptimConfig(lr=0.1))
    with pytest.raises(BadValue, match=r"`optim.momentum`='None' \(allowed: float\)"):
        parse_config(["--optim.momentum=None"])


def test_limits_of_batches_are_a_number_or_a_share() -> None:
    trainer = parse_config(["--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "0.5"])[0].trainer
    assert (trainer.limit_train_batches, trainer.limit_val_batches) == (3, 0.5)
    assert isinstance(trainer.limit_train_batches, int)


def test_a_configuration_comes_back_from_its_file(tmp_path: Path) -> None:
    for config in (
        FinetuneConfig(recipe="none", method="full"),
        FinetuneConfig(
            backbone="b3", pretrained="paper", dropout=0.5, freeze="backbone", ema_half_life=0.1,
            dataset="folder", data_root="/a b",
            trainer=TrainerConfig(max_epochs=5, devices=[0, 1], limit_train_batches=0.5, max_time="00:01:00:00"),
        ),
    ):  # fmt: skip
        save_config(config, tmp_path / "config.yaml")
        assert load_config(tmp_path / "config.yaml") == config
        assert parse_config(["--config", str(tmp_path / "config.yaml")]) == (config, None)


def test_the_saved_file_is_plain_yaml_with_the_defaults(tmp_path: Path) -> None:
    save_config(FinetuneConfig(), tmp_path / "config.yaml")
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == FinetuneConfig().to_dict()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--optim.lrr", "0.1"], r"unknown option 'optim\.lrr'; did you mean 'optim\.lr'\? \(see --help\)"),
        (["--bakcbone", "b0"], r"unknown option 'bakcbone'; did you mean 'backbone'"),
        (["--augment", "randaug"], r"`augment`='randaug'; did you mean 'randaugment'\? \(allowed: none, basic, "),
        (["--optim.name", "adam"], r"`optim\.name`='adam'; did you mean 'adamw'\? \(allowed: sgd, adamw, rmsprop\)"),
        (["--optim.lr", "fast"], r"`optim\.lr`='?fast'? \(allowed: float\)"),
        (["--trainer.max_epochs", "2.5"], r"`trainer\.max_epochs`='?2\.5'? \(allowed: int\)"),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_answered_with_what_is_allowed(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config(argv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backbnoe: b0\n", r"unknown option 'backbnoe'; did you mean 'backbone'"),
        ("optim: {learning_rate: 0.1}\n", r"unknown option 'optim\.learning_rate'"),
        ("trainer: {max_epoch: 3}\n", r"unknown option 'trainer\.max_epoch'; did you mean 'trainer\.max_epochs'"),
        ("bn: freeze\n", r"`bn`='freeze'; did you mean 'frozen'"),
    ],
)
def test_a_mistake_in_a_recipe_is_answered_with_the_nearest_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config(["--config", write(tmp_path / "recipe.yaml", text)])


def test_a_missing_recipe_is_named() -> None:
    with pytest.raises(UserError, match=r"no_such\.yaml"):
        parse_config(["--config", "no_such.yaml"])


def test_a_recipe_that_is_no_yaml_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        parse_config(["--config", write(tmp_path / "r.yaml", "optim: [lr: 3\n")])


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        parse_config(["--image_size", "16", "--optim.lr", "-1", "--dataset", "folder"])
    assert str(caught.value).splitlines() == [
        "the configuration has problems:",
        "  `image_size`=16 (allowed: 32 to 8192)",
        "  `optim.lr`=-1.0 (allowed: above 0)",
        "  `dataset`=folder needs `data_root`: class folders, a CSV or parquet file, or a save_to_disk folder",
    ]


@pytest.mark.parametrize("flag", ["--seed", "--optim.lr", "--trainer.accumulate_grad_batches"])
def test_help_describes_every_flag(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_config(["--help", "all"])
    assert caught.value.code == 0
    assert flag + " " in capsys.readouterr().out


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A folder as an interrupted run leaves it."""
    folder = tmp_path / "run"
    folder.mkdir()
    save_config(
        FinetuneConfig(backbone="b1", seed=7, out_dir=str(folder), optim=OptimConfig(lr=0.5)), folder / "config.yaml"
    )
    return folder


def test_resume_takes_the_runs_own_configuration(run_dir: Path) -> None:
    config, resume = parse_config(["--resume", str(run_dir)])
    assert resume == run_dir
    assert config == load_config(run_dir / "config.yaml")


def test_resume_may_change_where_and_how_fast_it_computes(run_dir: Path) -> None:
    config, _ = parse_config(["--resume", str(run_dir), "--trainer.accelerator", "cpu", "--data.num_workers", "0"])
    assert (config.trainer.accelerator, config.data.num_workers, config.optim.lr) == ("cpu", 0, 0.5)


def test_resume_accepts_what_it_already_has(run_dir: Path) -> None:
    assert parse_config(["--resume", str(run_dir), "--optim.lr", "0.5"])[0].optim.lr == 0.5


def test_resume_refuses_every_change_of_what_is_computed(run_dir: Path) -> None:
    with pytest.raises(UserError) as caught:
        parse_config(["--resume", str(run_dir), "--optim.lr", "0.1", "--seed", "8", "--trainer.precision", "32-true"])
    assert str(caught.value).splitlines() == [
        f"`resume`={run_dir} cannot change what the run computes:",
        "  `seed`=7 -> 8",
        "  `optim.lr`=0.5 -> 0.1",
    ]


def test_resume_of_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run: it has no config\.yaml"):
        parse_config(["--resume", str(tmp_path)])


def test_resume_without_a_folder_is_a_users_mistake() -> None:
    with pytest.raises(UserError, match="--resume"):
        parse_config(["--resume"])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_parses(path: Path) -> None:
    argv = ["--config", str(path)]
    if yaml.safe_load(path.read_text(encoding="utf-8")).get("dataset") == "folder":
        argv += ["--data_root", "photos"]
    config, _ = parse_config(argv)
    assert find_problems(config) == []


def test_what_is_typed_goes_over_the_recipe_wherever_the_recipe_stands(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("image_size: 64\n")
    for argv in (["--config", str(recipe), "--image_size", "96"], ["--image_size", "96", "--config", str(recipe)]):
        assert parse_config(argv)[0].image_size == 96


@pytest.mark.parametrize(
    ("word", "meant"), [("--data-root", "data_root"), ("--data.label-separator", "data.label_separator")]
)
def test_a_dash_in_an_option_is_told_as_an_underscore(word: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"unknown option '{word[2:]}'; did you mean '{meant}'"):
        parse_config([word, "x"])


def test_python_may_pass_paths_and_dataclasses() -> None:
    config, given = build_config(
        None,
        None,
        {
            "data_root": Path("photos"),
            "out_dir": Path("run"),
            "init_head": Path("probe"),
            "data": {"cache_dir": Path("c"), "cache": "disk"},
            "trainer": TrainerConfig(max_epochs=3),
        },
    )
    expected = FinetuneConfig(
        dataset="folder", data_root="photos", out_dir="run", init_head="probe", trainer=TrainerConfig(max_epochs=3)
    )
    assert config == replace(expected, data=replace(expected.data, cache_dir="c", cache="disk"))
    assert given == {"data_root", "out_dir", "init_head", "data.cache_dir", "data.cache", "trainer.max_epochs"}
    before = FinetuneConfig(out_dir=Path("run"), trainer=TrainerConfig(max_steps=7))  # type: ignore[arg-type]
    config, given = build_config(before, None, {"trainer": TrainerConfig()})
    assert config == FinetuneConfig(recipe="none", method="full", out_dir="run")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("dropout", "a", "`dropout`='a' (allowed: float, null)"),
        ("data_root", 3, "`data_root`=3 (allowed: str, null)"),
        ("trainer", {"devices": 1.5}, "`trainer.devices`=1.5 (allowed: int, str, list)"),
        ("trainer", {"deterministic": "x"}, "`trainer.deterministic`='x' (allowed: bool, warn, null)"),
        ("trainer", 5, "`trainer`=5 (allowed: a dictionary of its fields)"),
    ],
)
def test_a_value_of_the_wrong_type_is_told_in_our_words(name: str, value: object, message: str) -> None:
    with pytest.raises(UserError) as error:
        build_config(None, None, {name: value})
    assert str(error.value) == message


def test_a_data_root_without_a_dataset_is_a_folder_of_ones_own(tmp_path: Path) -> None:
    recipe = write(tmp_path / "r.yaml", "data_root: photos\n")
    probe, _ = parse_probe_config(["--data_root", "photos"])
    for config in (
        parse_config(["--data_root", "photos"])[0],
        parse_config(["--config", recipe])[0],
        build_config(None, None, {"data_root": "photos"})[0],
        build_config(FinetuneConfig(data_root="photos"), None, {})[0],
        probe,
    ):
        assert (config.dataset, config.data_root) == ("folder", "photos")
    assert parse_config(["--data_root", "photos", "--dataset", "pets"])[0].dataset == "pets"
    assert build_config(FinetuneConfig(dataset="pets"), None, {"data_root": "photos"})[0].dataset == "pets"
    with pytest.raises(BadValue, match="`data_root`=photos with `dataset`=digits"):
        parse_config(["--data_root", "photos", "--dataset", "digits"])


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        *((name, "trainer.max_epochs") for name in ("epochs", "num_epochs", "num-epochs", "trainer.epochs")),
        *((name, "optim.lr") for name in ("lr", "learning_rate", "optim.learning_rate")),
        *((name, "data.batch_size") for name in ("batch_size", "bs")),
        ("model", "backbone"),
        ("data_dir", "data_root"),
        ("data_path", "data_root"),
        ("gpus", "trainer.devices"),
        ("wd", "optim.weight_decay"),
        ("optimizer", "optim.name"),
        ("workers", "data.num_workers"),
        ("patience", "early_stopping"),
        ("momentum", "optim.momentum"),
        ("output_dir", "out_dir"),
    ],
)
def test_names_of_other_programs_lead_to_the_field(tmp_path: Path, given: str, meant: str) -> None:
    group, _, last = given.rpartition(".")
    recipe = write(tmp_path / "r.yaml", f"{group}: {{{last}: 1}}\n" if group else f"{given}: 1\n")
    for parse in (
        lambda: parse_config([f"--{given}", "1"]),
        lambda: parse_config(["--config", recipe]),
        lambda: build_config(None, None, {group: {last: 1}} if group else {given: 1}),
    ):
        with pytest.raises(BadValue, match=f"unknown option '{given}.*; did you mean '{meant}'"):
            parse()


def test_data_on_the_command_line_is_a_group_and_leads_to_the_folder() -> None:
    with pytest.raises(BadValue, match="did you mean 'data_root'"):
        parse_config(["--data", "photos"])


def test_a_value_out_of_range_is_told_with_the_recipes_line_unless_it_was_typed(tmp_path: Path) -> None:
    recipe = write(tmp_path / "r.yaml", "seed: 1\noptim:\n  lr: -1\n")
    with pytest.raises(BadValue) as caught:
        parse_config(["--config", recipe])
    assert str(caught.value) == f"{recipe} line 3: `optim.lr`=-1.0 (allowed: above 0)"
    with pytest.raises(BadValue) as caught:
        parse_config(["--config", recipe, "--optim.lr", "-2"])
    assert str(caught.value) == "`optim.lr`=-2.0 (allowed: above 0)"


def test_an_empty_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="sets nothing"):
        parse_config(["--config", write(tmp_path / "r.yaml", "# all commented out\n")])


def test_several_labels_per_image_imply_their_loss_unless_another_is_given() -> None:
    words = ("--data_root", "photos", "--data.multilabel", "true")
    assert parse_config(words)[0].loss.name == "bce"
    assert build_config(None, None, {"data_root": "photos", "data": {"multilabel": True}})[0].loss.name == "bce"
    with pytest.raises(UserError, match=r"several labels need `loss\.name`=bce"):
        parse_config((*words, "--loss.name", "cross_entropy"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--loss.name", "bce"),
            r"`loss\.logit_adjustment`=True with `loss\.name`=bce: it adjusts the logits of a softmax \(use",
        ),
        (
            ("--loss.class_weights", "balanced"),
            r"`loss\.logit_adjustment`=True with `loss\.class_weights`=balanced: both correct for the classes' sizes",
        ),
    ],
)
def test_what_a_logit_adjustment_does_not_go_with(words: tuple[str, ...], message: str) -> None:
    given = ("--data_root", "photos", "--loss.logit_adjustment", "true")
    assert parse_config(given)[0].loss.logit_adjustment is True
    with pytest.raises(UserError, match=message):
        parse_config((*given, *words))


@pytest.mark.parametrize(("asked", "taken"), [("auto", "auto"), ("on", True), ("true", True), ("off", False)])
def test_probe_and_choose_take_an_adjustment_from_words_and_recipes_alike(
    asked: str, taken: object, tmp_path: Path
) -> None:
    recipe = write(tmp_path / "r.yaml", f"logit_adjustment: {asked}\n")
    for parse in (parse_probe_config, parse_choose_config):
        for words in (["--logit_adjustment", asked], ["--config", recipe]):
            assert parse(["--data_root", "photos", *words])[1].logit_adjustment == taken
    with pytest.raises(UserError, match=r"logit_adjustment.*maybe"):
        parse_probe_config(["--data_root", "photos", "--logit_adjustment", "maybe"])


def test_a_command_line_leaves_nothing_to_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--dataset", "digits", "--optim.momentum", "0.5"]
    before = parse_config(line)[0]
    (tmp_path / "recipe.yaml").write_text("optim: {lr: 0.5}\nmonitor: loss\ntrainer: {max_steps: 3}\n")
    assert parse_config(["--config", str(tmp_path / "recipe.yaml"), "--optim.name", "sgd"])[0].trainer.max_steps == 3
    with pytest.raises(UserError):
        parse_config(["--seed", "7", "--print_config", "--optim.lr", "fast"])
    with pytest.raises(SystemExit):
        parse_config(["--seed", "7", "--print_config"])
    capsys.readouterr()
    assert parse_config(line)[0] == before and capsys.readouterr().out == ""
