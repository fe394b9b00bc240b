"""The paper's tables: read off networks, and measured on tiny checkpoints."""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from tests.conftest import ROOT, TINY, Compose
from torch import Tensor
from torchvision.models import vgg11, vgg13, vgg16, vgg19

from vgglab.config.jobs import EvaluateConfig, PaperTablesConfig
from vgglab.config.schema import TrainConfig, parse
from vgglab.data import Synthetic
from vgglab.data.transforms import Preprocessing
from vgglab.errors import InputError
from vgglab.evaluation.evaluate import evaluate
from vgglab.evaluation.protocols import Member, posteriors
from vgglab.networks import build_vgg
from vgglab.tables import measurements, paper, tables
from vgglab.tables.cache import PosteriorCache, images_digest
from vgglab.tables.formats import ResultTable
from vgglab.tables.measurements import MeasuredNetwork, open_measurements
from vgglab.tables.tables import paper_tables
from vgglab.training.run import train

Make = Callable[..., list[ResultTable]]

TINY_TEN = (*TINY, "data.num_classes=10", "trainer.max_epochs=1")
FIXED, JITTERED = "data.train_scale=40", "data.train_scale=[32,48]"
PAPER = ("paper top-1", "paper top-5")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Column A trained at S = 40, and column B trained at S in [32, 48]."""
    found = []
    for settings in (FIXED, "seed=1"), (JITTERED, "model=vgg13"):
        folder = tmp_path_factory.mktemp("trained")
        overrides = [f"run_dir={folder}", "name=test", *TINY_TEN, *settings]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            train(parse(compose("train", overrides=overrides), TrainConfig))
        found.append(folder / "checkpoints/last.ckpt")
    return found


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For tests that are not about the cache."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make(composed: Compose, checkpoints: list[Path], shared_cache: Path) -> Make:
    """The tables of the two checkpoints."""

    def tables_of(
        numbers: object,
        *overrides: str,
        files: list[Path] = checkpoints,
        cache: Path = shared_cache,
    ) -> Any:
        listed = f"checkpoints=[{','.join(map(str, files))}]"
        fixed = (f"table={numbers}", listed, f"cache={cache}", "batch_size=64")
        return paper_tables(parse(composed("paper_tables", *fixed, *overrides), PaperTablesConfig))

    return tables_of


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is computed, not read from the cache: protocol and scale of each pass."""
    made: list[tuple[str, int]] = []

    def counted(members: Any, images: Any, protocol: Any, **settings: Any) -> Tensor:
        made.append((protocol, members[0].scales[0]))
        return posteriors(members, images, protocol, **settings)

    monkeypatch.setattr(measurements, "posteriors", counted)
    return made


def records(table: ResultTable) -> list[dict[str, str]]:
    return list(csv.DictReader(table.csv().splitlines()))


def test_table_1_is_the_papers() -> None:
    table = tables.table_1()
    assert list(table.headings) == ["", "A", "A-LRN", "B", "C", "D", "E"]
    by_column = dict(zip(table.headings, zip(*table.rows, strict=True), strict=True))
    for column, layers, stages in (
        ("A", 11, "1 1 2 2 2"),
        ("B", 13, "2 2 2 2 2"),
        ("C", 16, "2 2 3 3 3"),
        ("D", 16, "2 2 3 3 3"),
        ("E", 19, "2 2 4 4 4"),
    ):
        depth, *cells, agrees = by_column[column]
        assert (int(depth), agrees) == (layers, "yes")
        per_stage = " ".join(cells).split("maxpool")
        assert " ".join(str(stage.count("conv")) for stage in per_stage[:-1]) == stages
        assert per_stage[-1].split() == ["FC-4096", "FC-4096", "FC-1000", "soft-max"]
    assert by_column["A-LRN"][2] == "LRN"
    assert [cell for cell in by_column["C"] if cell.startswith("conv1-")] == [
        "conv1-256",
        "conv1-512",
        "conv1-512",
    ]


def test_table_2_counts_parameters() -> None:
    rows = records(tables.table_2())
    assert [row["paper"] for row in rows] == ["133", "133", "133", "134", "138", "144"]
    assert {row["agrees"] for row in rows} == {"yes"}
    counted = {row["network"]: int(row["parameters"].replace(",", "")) for row in rows}
    with torch.device("meta"):
        reference = {"A": vgg11, "B": vgg13, "D": vgg16, "E": vgg19}
        for column, build in reference.items():
            assert counted[column] == sum(p.numel() for p in build().parameters())
    assert counted["A-LRN"] == counted["A"]
    assert counted["C"] == 133_638_952


def test_another_network_does_not_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "build_vgg", lambda column: build_vgg(column, width=0.5))
    assert "NO" in tables.table_1().rows[-1]
    assert {row["agrees"] for row in records(tables.table_2())} == {"NO"}


def test_errors_are_those_of_evaluate(
    make: Make, checkpoints: list[Path], composed: Compose, tmp_path: Path
) -> None:
    single, several, modes, fused = make("3..6")
    assert [row["Q"] for row in records(single)] == ["40", "40"]
    assert [row["Q"] for row in records(several)] == ["36, 40, 44", "32, 40, 48"]
    assert [row["S"] for row in records(several)] == ["40", "[32;48]"]
    assert [row["network"] for row in records(several)] == ["A", "B"]

    def evaluated(files: str, protocol: str, scales: str) -> list[str]:
        settings = (f"checkpoint={files}", f"protocol={protocol}", f"scales={scales}")
        job = composed("evaluate", *settings, "batch_size=64", run_dir=tmp_path / "evaluation")
        result = evaluate(parse(job, EvaluateConfig))
        return [f"{100 * (1 - result[f'test/top{k}']):.2f}" for k in (1, 5)]

    def measured(table: ResultTable, row: int) -> list[str]:
        return [records(table)[row][name] for name in ("top-1", "top-5")]

    first, second = map(str, checkpoints)
    together = f"[{first},{second}]"
    assert measured(single, 0) == evaluated(first, "dense", "[40]")
    assert measured(several, 1) == evaluated(second, "dense", "auto")
    assert measured(modes, 1) == evaluated(first, "multi_crop", "auto")
    assert measured(fused, 4) == evaluated(together, "dense_multi_crop", "auto")


def test_fusion_averages_posteriors(
    checkpoints: list[Path], composed: Compose, shared_cache: Path
) -> None:
    listed = f"checkpoints=[{','.join(map(str, checkpoints))}]"
    job = composed("paper_tables", "table=6", listed, f"cache={shared_cache}", "batch_size=64")
    opened = open_measurements(parse(job, PaperTablesConfig))
    members = [
        Member(n.network, n.preprocessing, n.scales("dense", several=True)) for n in opened.networks
    ]
    cpu = torch.device("cpu")
    at_once = posteriors(members, opened.images, "dense_multi_crop", device=cpu, batch_size=64)
    ours = sum(opened._posteriors(n, "dense_multi_crop", True) for n in opened.networks)
    torch.testing.assert_close(ours / 2, at_once, rtol=1e-4, atol=1e-6)


def test_images_that_cannot_be_read_are_left_out(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the passes without them are kept like others."""
    made = []

    def torn(members: Any, images: Any, protocol: Any, **settings: Any) -> Tensor:
        made.append(protocol)
        found = posteriors(members, images, protocol, **settings)
        right = found.argmax(1) == images.labels
        return found.where(right[:, None], torch.nan)

    monkeypatch.setattr(measurements, "posteriors", torn)
    (first,) = make(3, cache=tmp_path / "cache")
    assert {row["top-1"] for row in records(first)} == {"0.00"}
    assert [note for note in first.notes if re.match(r"\d+ images that cannot be read", note)]
    assert make(3, cache=tmp_path / "cache") == [first]
    assert len(made) == 2


def test_every_pass_is_made_once(make: Make, passes: list[tuple[str, int]], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = make("3..7", cache=cache)
    wanted = [(mode, q) for mode in ("dense", "multi_crop") for q in (36, 40, 44, 32, 40, 48)]
    assert sorted(passes) == sorted(wanted)
    passes.clear()
    assert make("3..7", cache=cache) == first
    assert passes == []
    make(3, "precision=bf16-mixed", cache=cache)
    make(3, "data=synthetic", "data.num_classes=10", "data.test_size=21", cache=cache)
    assert passes == [("dense", 40)] * 4
    assert len(list(cache.iterdir())) == 12 + 4


@pytest.mark.parametrize("damage", ["torn", "zeros", "of others"])
def test_a_damaged_pass_is_made_again(
    make: Make, passes: list[tuple[str, int]], tmp_path: Path, damage: str
) -> None:
    cache = tmp_path / "cache"
    table = make(3, cache=cache)
    passes.clear()
    file = sorted(cache.glob("*.safetensors"))[0]
    content = file.read_bytes()
    tail = len(content) // 2
    file.write_bytes(
        {
            "torn": content[:tail],
            "zeros": content[:tail] + bytes(len(content) - tail),
            "of others": b"not safetensors",
        }[damage]
    )
    assert make(3, cache=cache) == table
    assert len(passes) == 1
    assert file.read_bytes() == content


def test_a_killed_run_leaves_its_finished_passes(
    make: Make, passes: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(PosteriorCache, "get", _stopping_after(2, PosteriorCache.get))
        with pytest.raises(KeyboardInterrupt):
            make(4, cache=cache)
    assert not (tmp_path / "run").exists()
    passes.clear()
    make(4, cache=cache)
    assert len(passes) == 4


def _stopping_after(count: int, get: Any) -> Any:
    left = [None] * count

    def stopping(*arguments: Any) -> Any:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return get(*arguments)

    return stopping


def test_images_are_told_apart() -> None:
    def digest(**settings: Any) -> str:
        images = Synthetic(num_classes=3, **settings).load("test")
        return images_digest(images)

    assert digest(test_size=6) == digest(test_size=6)
    assert len({digest(test_size=6), digest(test_size=7), digest(test_size=6, seed=1)}) == 3


def test_off_imagenet_the_papers_columns_are_empty(make: Make) -> None:
    for table in make("3..6"):
        for row in records(table):
            assert [row[name] for name in PAPER] == ["", ""]
            assert row["data"] == "20 test images of Synthetic"
        assert "ImageNet" in table.notes[0]
        assert "20 test images of Synthetic" in table.markdown()
        assert "20 test images of Synthetic" in table.latex()
    (best,) = make(7)
    assert [row["method"][:4] for row in records(best)] == ["ours", "ours"]


def test_on_imagenet_the_papers_figures_stand_beside_ours(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny networks under the names of D and E with scale jitter, on a like of ImageNet."""
    by_column = {"A": paper.Net("D", paper.JITTERED), "B": paper.Net("E", paper.JITTERED)}
    named = property(lambda self: by_column[self.network.column])
    monkeypatch.setattr(MeasuredNetwork, "papers", named)
    monkeypatch.setattr(measurements, "ImageNet", Synthetic)
    monkeypatch.setattr(measurements, "IMAGENET_CLASSES", 10)
    single, several, modes, fused, others = map(records, make("3..7"))

    def figures(rows: list[dict[str, str]]) -> list[str]:
        return [f"{row[PAPER[0]]} / {row[PAPER[1]]}" for row in rows]

    assert figures(single) == ["25.6 / 8.1", "25.5 / 8.0"]
    assert figures(several) == ["24.8 / 7.5", "24.8 / 7.5"]
    assert figures(modes)[2:] == ["24.4 / 7.2", "24.8 / 7.5", "24.6 / 7.4", "24.4 / 7.1"]
    assert figures(fused) == ["24.4 / 7.2", "24.4 / 7.1", "24.0 / 7.1", "23.9 / 7.2", "23.7 / 6.8"]
    assert [row["paper test top-5"] for row in fused] == ["", "", "7.0", "", "6.8"]
    assert [row["method"] for row in others[2:4]] == ["VGG (the paper)"] * 2
    assert "no such network" not in " ".join(make(3)[0].notes)
    assert {"GoogLeNet", "MSRA", "Clarifai"} < {row["method"] for row in others}


def test_only_the_papers_networks_have_the_papers_names(
    checkpoints: list[Path], composed: Compose
) -> None:
    job = composed("paper_tables", "table=3", f"checkpoints={checkpoints[1]}")
    (tiny,) = open_measurements(parse(job, PaperTablesConfig)).networks
    assert tiny.papers is None

    def named(scale: tuple[int, int] | None, size: int = 224, **change: Any) -> paper.Net | None:
        with torch.device("meta"):
            network = build_vgg("D", **change)
        trained = Preprocessing((0.0,) * 3, (1.0,) * 3, (size, size), 256, scale)
        return MeasuredNetwork(Path("a"), "0", network, trained, "D").papers

    assert named((256, 512)) == ("D", (256, 512))
    assert named((256, 512), batch_norm=True) is None
    assert named((256, 512), width=0.5) is None
    assert named((256, 512), size=192) is None
    assert named(None) is None


def test_imagenet_is_a_class_with_1000_classes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "ImageNet", Synthetic)  # but it has ten
    (table,) = make(3)
    assert "ImageNet" in table.notes[0]
    monkeypatch.setattr(measurements, "IMAGENET_CLASSES", 10)
    (table,) = make(3)
    assert table.notes[0] == "A 40: the paper has no such network."
    assert [row[name] for row in records(table) for name in PAPER] == [""] * 4


def test_scales_below_the_network_are_left_out(
    make: Make, composed: Compose, tmp_path: Path
) -> None:
    folder = tmp_path / "small"
    settings = (*TINY_TEN, "data.train_scale=32")
    train(parse(composed("train", *settings, run_dir=folder), TrainConfig))
    (table,) = make(4, files=[folder / "checkpoints/last.ckpt"])
    assert records(table)[0]["Q"] == "32, 36"
    assert "A 32: no dense at Q = 28, too small for it." in table.notes


def test_two_of_a_kind_are_told_apart(make: Make, checkpoints: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.ckpt"
    copy.write_bytes(checkpoints[0].read_bytes())
    (table,) = make(3, files=[checkpoints[0], copy])
    assert [row["network"] for row in records(table)] == ["A", "A (2)"]
    assert str(copy) in table.sources["A (2) 40"]


def test_files_and_terminal_hold_the_same_cells(make: Make, tmp_path: Path) -> None:
    made = make("1..7")
    for table in made:
        name = tmp_path / f"run/table{table.number}"
        assert name.with_suffix(".csv").read_text() == table.csv()
        markdown = name.with_suffix(".md").read_text()
        lines = [line for line in markdown.splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        assert [cells[0], *cells[2:]] == [list(table.headings), *map(list, table.rows)]
        check_latex(name.with_suffix(".tex").read_text(), len(table.rows))
        console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(table.rich())
        shown = console.export_text()
        assert max(map(len, shown.splitlines())) <= 80
        assert "…" not in shown


def check_latex(text: str, rows: int) -> None:
    """Balanced braces and environments, the same number of cells in each row."""
    depth = 0
    for token in re.findall(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(token, 0)
        assert depth >= 0
    assert depth == 0
    opened = re.findall(r"\\begin\{(\w+)\}", text)
    assert opened == re.findall(r"\\end\{(\w+)\}", text)[::-1] == ["table", "tabular"]
    columns = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)[1])  # type: ignore[index]
    lines = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert len(lines) == rows + 1
    for line in lines:
        assert len(re.findall(r"(?<!\\)&", line)) == columns - 1


def test_special_characters_are_escaped() -> None:
    table = ResultTable(
        9, "50% of {a_b} & c#", ["x|y", "z"], [["[256;512]", "~^\\"]], 2, ["<a_b>*"], "$5"
    )
    text = table.latex()
    check_latex(text, 1)
    assert r"50\% of \{a\_b\} \& c\#; \$5" in text
    assert r"{[}256;512{]} & \textasciitilde{}\textasciicircum{}\textbackslash{} \\" in text
    assert r"x\textbar{}y" in text
    assert r"| x\|y" in table.markdown()
    assert r"\<a\_b\>\*" in table.markdown()
    assert list(csv.reader(table.csv().splitlines())) == [
        ["x|y", "z", "data"],
        ["[256;512]", "~^\\", "$5"],
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["table=8"], "table: [8]; choices"),
        (["table=0..3"], "table: [0, 1, 2, 3]; choices"),
        (["table=[]"], "table: []; choices"),
        (["table=many"], "table.0='many'"),
        (["table=3"], "table=3 is measured: give checkpoints="),
        (["table=6", "checkpoints=a.ckpt"], "table=6 fuses networks"),
        (["table=3", "checkpoints=[a.ckpt,a.ckpt]"], "names a file twice"),
        (["table=3", "checkpoints=nowhere.ckpt"], "nowhere.ckpt"),
    ],
)
def test_bad_input_is_refused(
    composed: Compose, tmp_path: Path, settings: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        paper_tables(parse(composed("paper_tables", *settings), PaperTablesConfig))
    assert not (tmp_path / "run").exists()


def test_other_data_must_have_the_same_classes(make: Make) -> None:
    with pytest.raises(InputError, match="10 classes, which are not the 4 of data"):
        make(3, "data=synthetic", "data.num_classes=4")


def test_a_cache_that_cannot_be_written_is_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        make(3, cache=tmp_path / "file/cache")
