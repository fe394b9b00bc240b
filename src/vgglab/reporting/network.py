"""`network.json`, the layers of a run's network, and its part of the page."""

from html import escape

from torch import nn

from vgglab.networks import receptive_field
from vgglab.reporting.page import details
from vgglab.reporting.record import Layer, NetworkRecord
from vgglab.reporting.summary import ModelSummary


def network_record(network: nn.Module, summary: ModelSummary) -> NetworkRecord:
    """The layers that have parameters or change the shape, and the totals.

    Args:
        network: a VGG, or any other; where it cannot be traced there are no receptive fields.
        summary: of that network.
    """
    try:
        sizes = {row.name: row.size for row in receptive_field(network)}
    except ValueError:
        sizes = {}
    layers: list[Layer] = []
    shape: tuple[int, ...] | None = None
    for row in summary.rows:
        if row.parameters or row.output != shape:
            layers.append(
                Layer(
                    name=row.name,
                    type=row.type,
                    output=row.output,
                    parameters=row.parameters,
                    mult_adds=row.mult_adds,
                    receptive_field=sizes.get(row.name),
                )
            )
        shape = row.output
    return NetworkRecord(
        input_size=summary.input_size,
        parameters=summary.parameters,
        trainable=summary.trainable,
        mult_adds=summary.mult_adds,
        layers=layers,
    )


def network_section(network: NetworkRecord) -> str:
    """The totals, and on demand the layers."""
    side = max(network.input_size[1:])
    rows = []
    for layer in network.layers:
        size = layer.receptive_field
        share = 0.0 if size is None else min(1.0, size / max(side, 1))
        bar = f'<div class="bar" style="--share:{share:.3f}"></div>' if size is not None else ""
        rows.append(
            f'<tr><th scope="row">{escape(layer.name)}</th><td>{escape(layer.type)}</td>'
            f'<td class="number">{_sides(layer.output)}</td>'
            f'<td class="number">{f"{layer.parameters:,}" if layer.parameters else ""}</td>'
            f'<td class="number">{f"{layer.mult_adds / 1e6:,.2f}" if layer.mult_adds else ""}</td>'
            f'<td class="number">{"" if size is None else size}</td><td>{bar}</td></tr>'
        )
    heads = "".join(
        f'<th class="number">{name}</th>'
        for name in ("output", "parameters", "mult-adds (M)", "sees (pixels)")
    )
    table = (
        '<div class="scroll"><table class="plain"><thead><tr><th>layer</th><th>type</th>'
        f"{heads}<th>of the image's {side}</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    heading = (
        f"Network: {_millions(network.parameters)} parameters, "
        f"{_millions(network.mult_adds)} multiply-adds an image of {_sides(network.input_size)}"
    )
    return details(heading, table)


def _sides(shape: tuple[int, ...] | None) -> str:
    return "not used" if shape is None else " x ".join(map(str, shape))


def _millions(count: int) -> str:
    return f"{count / 1e9:.3g} billion" if count >= 1e9 else f"{count / 1e6:.3g} million"
