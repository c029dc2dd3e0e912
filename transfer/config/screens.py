"""What `--help` shows of each command: one screen of examples and of what most people need; `--help all` shows all."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

PROGRAM = "efficientnet-transfer"


@dataclass(frozen=True)
class Screen:
    """What `--help` shows besides what the command does and its positional arguments.

    Attributes:
        examples: what to type after the command's name.
        options: the flags that are shown, separated by spaces, below the first paragraph of the parser's description;
            None: all flags, below the whole description.
        is_brief: whether of each option's help only what stands before the first semicolon is shown, and its default.
    """

    examples: tuple[str, ...]
    options: str | None = None
    is_brief: bool = False


# The words of each command. A command without a row shows all.
SCREENS = {
    "": Screen(
        (
            "finetune --data_root photos/            # photos/<class>/*.jpg",
            "predict runs/photos_lite0/1 new_photos/",
            "choose --data_root photos/              # which network, and how to train it",
        )
    ),
    "finetune": Screen(
        (
            "--data_root photos/                       # photos/<class>/*.jpg",
            "--backbone b0 --dataset flowers --trainer.max_epochs 20",
            "--resume runs/photos_lite0/1 --trainer.max_epochs 40",
        ),
        "--config --resume --open --backbone --dataset --data_root --method --image_size --augment --folds --out_dir"
        " --optim.lr --trainer.max_epochs",
        is_brief=True,
    ),
    "evaluate": Screen(
        ("runs/photos_lite0/1", "runs/photos_lite0/1 --data_root other_photos/"),
        "--split --data_root --data.on_bad_image --engine --calibrate --out_dir --json",
    ),
    "predict": Screen(
        (
            "runs/photos_lite0/1 new_photos/ --out answers.csv",
            "runs/photos_lite0/1 photo.jpg --format json --top_k 5",
            "mymodel/ new_photos/ --abstain   # a bundle, which may say `unknown`",
        ),
        "--format --out --sheet --top_k --abstain --coverage --max_error --sets --data.batch_size --engine",
    ),
    "explain": Screen(
        (
            "runs/photos_lite0/1 new_photos/",
            "runs/photos_lite0/1 photo.jpg --compare runs/photos_b0/1",
        )
    ),
    "compare": Screen(
        (
            "runs/photos_lite0/1 runs/photos_b0/1",
            "runs/photos_lite0/[12] --with runs/photos_b0/[12]",
        )
    ),
    "report": Screen(
        ("runs/photos_lite0/1", "runs/photos_choose/1", "runs/photos_lite0/1 runs/photos_b0/1 --out both.html")
    ),
    "runs": Screen(("", "runs/ other_runs/ --sort val"), "--sort --format"),
    "choose": Screen(
        (
            "--data_root photos/",
            "--data_root photos/ --backbones lite0,b0,v2-s --max_latency_ms 20",
            "--data_root photos/ --budget 5m --learning_curve true",
        ),
        "--data_root --backbones --image_sizes --folds --methods --budget --max_latency_ms --learning_curve --out_dir",
        is_brief=True,
    ),
    "probe": Screen(
        ("--data_root photos/", "--backbone b0 --dataset pets --data_root DIR"),
        "--config --backbone --dataset --data_root --image_size --seed --out_dir --engine --views",
        is_brief=True,
    ),
    "doctor": Screen(
        (
            "photos/ --out_dir report/",
            "cifar10 --data_root DIR",
            "photos/ --run runs/photos_choose/1          # which labels look wrong",
        ),
        "--data_root --run --backbone --out_dir --json --pin --pin_name --near_distance --data.group_column",
    ),
    "weights": Screen(("list --backbone b0", "fetch tf_efficientnet_b0.aa_in1k")),
    "weights list": Screen(("", "--backbone b0 --family timm")),
    "weights info": Screen(("tf_efficientnet_b0.aa_in1k",)),
    "weights fetch": Screen(("tf_efficientnet_b0.aa_in1k",)),
    "weights verify": Screen(("model.pth --family timm",)),
    "export": Screen(
        (
            "runs/photos_lite0/1 --out mymodel/",
            "runs/photos_lite0/1 --out mymodel.zip --format onnx,openvino --int8",
        )
    ),
    "check": Screen(("mymodel/",)),
    "serve": Screen(("mymodel/", "mymodel/ --host 0.0.0.0 --port 8080")),
    "push": Screen(("mymodel/ user/name --private", "mymodel/ user/name --dry_run")),
    "convert": Screen(("runs/photos_lite0/1 mine.safetensors --to timm",)),
    "table": Screen(
        (
            "plan tables/paper --config configs/tables/paper.yaml --data_root DIR",
            "run tables/paper --workers 8",
            "report tables/paper",
        )
    ),
    "table plan": Screen(
        (
            "tables/paper --config configs/tables/paper.yaml --data_root DIR",
            "tables/linear --datasets pets --protocols linear-probe",
        )
    ),
    "table run": Screen(
        (
            "tables/paper --workers 8",
            "tables/paper --launcher slurm --slurm partition=gpu",
        )
    ),
    "table report": Screen(("tables/paper",)),
    "table cell": Screen(("tables/paper --cell cifar10_b0_kornblith_0",)),
    "table sweep": Screen(("configs/sweeps/lr_weight_decay_bayes.yaml --out_dir sweeps/lr",)),
    "scale": Screen(("fit --max_macs 1.8e9 --max_memory 16GiB", "search searches/digits --workers 2")),
    "scale fit": Screen(
        (
            "--max_macs 1.8e9 --max_memory 16GiB --batch_size 32",
            "--baseline resnet50 --max_memory 8GB --inference",
            "--baseline my_module.my_function --image_size 32 --max_macs 50e6",
        ),
        "--baseline --measure --json --max_params --max_macs --max_memory --max_latency_ms --data.batch_size"
        " --inference --image_size",
    ),
    "scale search": Screen(
        (
            "searches/digits --workers 2",
            "searches/cifar10 --dataset cifar10 --budget_steps 3000",
            "searches/digits --launcher slurm --slurm partition=gpu",
        ),
        "--baseline --dataset --data_root --steps --seeds --spacing --budget_steps --workers --launcher",
    ),
    "scale sweep": Screen(
        (
            "sweeps/digits --baseline lite0 --workers 2",
            "sweeps/fig8 --figure 8 --phis 0,1,2 --constants 1.2,1.1,1.15",
            "sweeps/cifar10 --figure 4 --dataset cifar10 --data_root DIR",
        ),
        "--figure --phis --constants --baseline --dataset --data_root --steps --seeds --workers",
    ),
    "scale evolve": Screen(
        (
            "searches/blocks --baseline lite0 --workers 2",
            "searches/cifar10 --dataset cifar10 --networks 100",
        ),
        "--networks --population --children --baseline --dataset --data_root --steps --seeds --workers --launcher",
    ),
    "scale report": Screen(("searches/digits",)),
    "scale run": Screen(("searches/digits --run a1.2_b1.1_g1.15_s0",)),
    "costs": Screen(
        (
            "b3 --batch_size 8 --threads 1",
            "--compare b0,b4,resnet50 --threads 1",
            "b3 --image_size 300 --plan --memory 16GiB --num_images 50000",
        ),
        "--compare --image_size --data.batch_size --num_classes --device --threads --measure_memory --json --plan"
        " --memory --num_images --epochs",
    ),
}


class _Help(argparse._HelpAction):
    """`--help`, or `--help all`. Any other word behind it is left alone: `predict --help RUN` answers, too."""

    def __init__(self, option_strings: Sequence[str], dest: str = argparse.SUPPRESS, **_: object) -> None:
        text = "show the most used options; --help all shows every one"
        argparse.Action.__init__(self, option_strings, dest, nargs="?", default=argparse.SUPPRESS, help=text)
        self.metavar = "all"

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: object, option_string: str | None = None
    ) -> None:
        print(format_help(parser, everything=values == "all"), end="")
        parser.exit()


def add_help(parser: argparse.ArgumentParser) -> None:
    """Let `--help` of a parser and its subparsers show one screen, see `SCREENS`, and `--help all` everything."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                add_help(subparser)
    parser._optionals.conflict_handler = "resolve"
    parser.add_argument("-h", "--help", action=_Help)
    parser._optionals.conflict_handler = "error"


def first_words(words: Sequence[str]) -> list[str]:
    """Return what a parser reads that only looks for the name of a command: that, or `--help` and its word."""
    return list(words[:2] if words and words[0] in ("-h", "--help") else words[:1])


def format_help(parser: argparse.ArgumentParser, *, everything: bool) -> str:
    """Return the help of a command, with its examples: of the options in `SCREENS`, or of all."""
    screen = SCREENS.get(parser.prog.removeprefix(PROGRAM).strip(), Screen(()))
    lines = "".join(f"\n  {parser.prog} {example}".rstrip() for example in screen.examples)
    examples = f"\nexamples:{lines}\n" if lines else ""
    if everything:
        return parser.format_help() + examples
    with _cut(parser, screen):
        return f"{parser.format_help()}{examples}\nall options and details: {parser.prog} --help all\n"


@contextmanager
def _cut(parser: argparse.ArgumentParser, screen: Screen) -> Iterator[None]:
    """Leave of a parser what its screen shows, and put back the rest afterwards."""
    texts = parser.usage, parser.description, parser.epilog
    helps = {action: action.help for action in parser._actions}
    options = [action for action in parser._actions if action.option_strings and not action.required]
    kept = [option.option_strings[0] for option in options] if screen.options is None else screen.options.split()
    try:
        for option in options:
            option.help = argparse.SUPPRESS
        parser.usage = parser.usage or _usage(parser, has_options=len(options) > 1)
        for option in options:
            if option.option_strings[0] in kept and not isinstance(option, _Help):
                option.help = helps[option]
                if screen.is_brief:
                    _shorten(option)
        if screen.options is not None:
            parser.description = (parser.description or "").partition("\n\n")[0]
        parser.epilog = None
        yield
    finally:
        parser.usage, parser.description, parser.epilog = texts
        for action, text in helps.items():
            action.help = text
            vars(action).pop(_EXPANDED, None)


def _usage(parser: argparse.ArgumentParser, *, has_options: bool) -> str:
    """Return the usage of a parser whose options are hidden."""
    words = parser.format_usage().removeprefix("usage: ").removeprefix(parser.prog).strip()
    return " ".join(["%(prog)s", *(["[options]"] if has_options else []), words]).strip()


def _shorten(option: argparse.Action) -> None:
    """Leave of an option's help what stands before the first semicolon, and its default, without the type."""
    default = option.default
    note = "" if default is None or default is argparse.SUPPRESS else f" (default: {default})"
    option.help = (option.help or "").partition(";")[0] + note
    setattr(option, _EXPANDED, True)


# What jsonargparse sets on an action whose help needs no type and no default any more.
_EXPANDED = "_jsonargparse_preexpanded_help"
