"""scripts/paper_tables.py: Tables 1 to 7 of the paper, from networks and checkpoints of ours."""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path

import torch
from torch import nn

from vgglab.config.jobs import PaperTablesConfig
from vgglab.files import replace_file
from vgglab.networks import VGG, build_vgg, layer_names
from vgglab.reporting.environment import open_run_folder
from vgglab.reporting.terminal import console, print_result
from vgglab.tables import paper
from vgglab.tables.formats import ResultTable
from vgglab.tables.measurements import WORDS, Measurements, listed, open_measurements

OURS = ("top-1", "top-5")
THEIRS = ("paper top-1", "paper top-5")


def paper_tables(job: PaperTablesConfig) -> list[ResultTable]:
    """Make the tables, write each as Markdown, CSV and LaTeX into the run's folder, print them.

    Raises:
        InputError: the checkpoints do not fit the tables, the data or each other; nothing is
            written but finished passes into the cache.
    """
    numbers = sorted(set(job.table))
    tables = [FROM_NETWORKS[number]() for number in numbers if number in FROM_NETWORKS]
    measured = [MEASURED[number] for number in numbers if number in MEASURED]
    if measured:
        measurements = open_measurements(job)
        tables += [table(measurements) for table in measured]
    folder = Path(job.run_dir)
    open_run_folder(folder, job.composition)
    for table in tables:
        texts = {"md": table.markdown(), "csv": table.csv(), "tex": table.latex()}
        for ending, text in texts.items():
            replace_file(folder / f"table{table.number}.{ending}", text.encode())
        console.print(table.rich())
    print_result({}, {**tables[-1].sources, "run folder": str(folder)})
    return tables


def table_1() -> ResultTable:
    """The configurations, layer by layer, read off the networks and compared with the paper's."""
    networks = {column: _on_meta(column) for column in paper.TABLE_1}
    layers = {column: _layers(network) for column, network in networks.items()}
    counts = {column: _weight_layers(network) for column, network in networks.items()}
    *stages, dense = zip(*layers.values(), strict=True)
    rows = [["layers", *map(str, counts.values())]]
    for number, stage in enumerate(stages, 1):
        rows += _labelled(f"stage {number}", stage)
        rows.append(["", *["maxpool"] * len(networks)])
    rows += _labelled("dense", dense)
    agree = (
        layers[column] == [*map(str.split, stages), list(paper.TABLE_1_DENSE)]
        and counts[column] == paper.WEIGHT_LAYERS[column]
        for column, stages in paper.TABLE_1.items()
    )
    rows.append(["agrees", *map(_yes_or_no, agree)])
    return ResultTable(
        1,
        "Configurations, read off the networks",
        ["", *networks],
        rows,
        text_columns=1 + len(networks),
        notes=[
            "layers: those with weights. convK-C: C kernels of KxK.",
            "A ReLU follows each convolution and FC-4096.",
            "agrees: with the paper's Table 1.",
        ],
    )


def table_2() -> ResultTable:
    """Parameters, counted on the networks."""
    rows = []
    for column, theirs in paper.TABLE_2.items():
        count = sum(parameter.numel() for parameter in _on_meta(column).parameters())
        agrees = _yes_or_no(round(count / 1e6) == theirs)
        rows.append([column, f"{count:,}", f"{count / 1e6:.2f}", str(theirs), agrees])
    headings = ["network", "parameters", "millions", "paper", "agrees"]
    return ResultTable(2, "Parameters, counted on the networks", headings, rows, text_columns=1)


def table_3(measurements: Measurements) -> ResultTable:
    """Section 4.1: dense, one scale."""
    return _dense_table(3, paper.TABLE_3, measurements, several=False)


def table_4(measurements: Measurements) -> ResultTable:
    """Section 4.2: dense, several scales."""
    return _dense_table(4, paper.TABLE_4, measurements, several=True)


def _dense_table(
    number: int,
    figures: dict[paper.Net, paper.Errors],
    measurements: Measurements,
    *,
    several: bool,
) -> ResultTable:
    rows = []
    for network in measurements.networks:
        scales = listed(network.scales("dense", several=several))
        ours = measurements.errors([network], "dense", several=several)
        theirs = measurements.papers(network.papers and figures.get(network.papers))
        cells = [network.label, network.train_scale, scales]
        rows.append([*cells, *_ours(ours), *_theirs(theirs)[:2]])
    return ResultTable(
        number,
        f"Error in percent, dense, {'several test scales' if several else 'one test scale'}",
        ["network", "S", "Q", *OURS, *THEIRS],
        rows,
        text_columns=3,
        notes=measurements.notes("dense") if several else measurements.notes(),
        data=measurements.data,
        sources=measurements.sources,
    )


def table_5(measurements: Measurements) -> ResultTable:
    """Section 4.3: dense and multi-crop evaluation, and their mean."""
    rows = []
    for network in measurements.networks:
        for evaluation, words in WORDS.items():
            ours = measurements.errors([network], evaluation)
            figures = network.papers and paper.TABLE_5.get((network.papers, evaluation))
            cells = [network.label, network.train_scale, words]
            rows.append([*cells, *_ours(ours), *_theirs(measurements.papers(figures))[:2]])
    return ResultTable(
        5,
        "Error in percent, dense and multi-crop, several test scales",
        ["network", "S", "evaluation", *OURS, *THEIRS],
        rows,
        text_columns=3,
        notes=measurements.notes("dense", "multi_crop"),
        data=measurements.data,
        sources=measurements.sources,
    )


def table_6(measurements: Measurements) -> ResultTable:
    """Section 4.4: each network alone, and the mean of the soft-max outputs of all of them."""
    networks = measurements.networks
    rows = []
    for network in networks:
        ours = measurements.errors([network], "dense_multi_crop")
        figures = network.papers and paper.TABLE_5.get((network.papers, "dense_multi_crop"))
        theirs = measurements.papers(figures)
        rows.append([network.name, WORDS["dense_multi_crop"], *_ours(ours), *_theirs(theirs)])
    members = frozenset(network.papers for network in networks if network.papers)
    for evaluation, words in WORDS.items():
        ours = measurements.errors(networks, evaluation)
        # A second network of the same kind makes it another fusion than the paper's.
        same = len(members) == len(networks)
        theirs = measurements.papers(paper.TABLE_6.get((members, evaluation)) if same else None)
        rows.append([f"all {len(networks)}", words, *_ours(ours), *_theirs(theirs)])
    return ResultTable(
        6,
        "Error in percent, fusion, several test scales",
        ["networks", "evaluation", *OURS, *THEIRS, "paper test top-5"],
        rows,
        text_columns=2,
        notes=measurements.notes("dense", "multi_crop"),
        data=measurements.data,
        sources=measurements.sources,
    )


def table_7(measurements: Measurements) -> ResultTable:
    """Section 4.5: our best network and all of them, among the entries that the paper lists."""
    networks = measurements.networks
    singles = [measurements.errors([network], "dense_multi_crop") for network in networks]
    best = min(range(len(networks)), key=lambda index: singles[index][:2])
    rows = [[f"ours: {networks[best].name}", "1", *_ours(singles[best]), ""]]
    if len(networks) > 1:
        together = measurements.errors(networks, "dense_multi_crop")
        rows.insert(0, ["ours: all", str(len(networks)), *_ours(together), ""])
    if measurements.is_imagenet:
        rows += [[entry.method, entry.nets, *_theirs(entry.errors)] for entry in paper.TABLE_7]
    return ResultTable(
        7,
        "Error in percent, other methods and ours (dense and multi-crop, several test scales)",
        ["method", "networks", *OURS, "test top-5"],
        rows,
        text_columns=1,
        notes=measurements.notes("dense", "multi_crop"),
        data=measurements.data,
        sources=measurements.sources,
    )


FROM_NETWORKS: dict[int, Callable[[], ResultTable]] = {1: table_1, 2: table_2}
MEASURED: dict[int, Callable[[Measurements], ResultTable]] = {
    3: table_3,
    4: table_4,
    5: table_5,
    6: table_6,
    7: table_7,
}


def _on_meta(column: str) -> VGG:
    with torch.device("meta"):  # shapes without memory
        return build_vgg(column)  # type: ignore[arg-type]


def _weight_layers(network: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules())


def _layers(network: VGG) -> list[list[str]]:
    """The layers of the five stages and of the dense part, in the notation of Table 1."""
    parts: list[list[str]] = [[]]
    for path in layer_names(network).values():
        layer = network.get_submodule(path)
        if isinstance(layer, nn.Conv2d):
            parts[-1].append(f"conv{layer.kernel_size[0]}-{layer.out_channels}")
        elif isinstance(layer, nn.LocalResponseNorm):
            parts[-1].append("LRN")
        elif isinstance(layer, nn.MaxPool2d):
            parts.append([])
        elif isinstance(layer, nn.Linear):
            parts[-1].append(f"FC-{layer.out_features}")
    parts[-1].append("soft-max")  # the networks return logits, every evaluation takes it of them
    return parts


def _labelled(label: str, columns: Sequence[Sequence[str]]) -> list[list[str]]:
    rows = zip_longest(*columns, fillvalue="")
    return [["" if index else label, *row] for index, row in enumerate(rows)]


def _yes_or_no(agrees: bool) -> str:
    return "yes" if agrees else "NO"


def _ours(errors: paper.Errors) -> list[str]:
    return [f"{error:.2f}" for error in errors[:2]]


def _theirs(errors: paper.Errors) -> list[str]:
    return ["" if error is None else f"{error:.1f}" for error in errors]
