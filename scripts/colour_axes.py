"""The principal axes of a data set's colours: scripts/colour_axes.py data=cifar10"""

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="colour_axes")
def main(config: DictConfig) -> None:
    with readable_errors():
        from pathlib import Path

        from vgglab.config.jobs import ColourAxesConfig
        from vgglab.config.schema import parse
        from vgglab.data.colour import colour_axes_of, read_colour_axes, write_colour_axes
        from vgglab.reporting.terminal import console

        job = parse(config, ColourAxesConfig)
        output = Path(job.output)
        kept = output.exists() and not job.again
        if not kept:
            data = job.data.build("data")
            data.prepare_data()
            data.setup("fit")
            axes = colour_axes_of(data.sets["train"], limit=job.limit, seed=job.seed)
            write_colour_axes(axes, output)
        axes = read_colour_axes(str(output), setting="output")
        if kept:
            console.print("kept from an earlier run; again=true computes them anew")
        for value, vector in zip(
            axes.eigenvalues, zip(*axes.eigenvectors, strict=True), strict=True
        ):
            shown = ", ".join(f"{part:8.4f}" for part in vector)
            console.print(f"eigenvalue {value:.5f}  axis ({shown})", highlight=False)
        console.print(f"{output}; use it: data.colour_deviation=0.1 data.colour_axes={output}")


if __name__ == "__main__":
    with readable_errors():
        main()
