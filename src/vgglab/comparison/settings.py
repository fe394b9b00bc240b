"""What differs in the configurations of runs, in the words of the command line."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vgglab.config.typed import REFERENCE, typed

ABSENT = "-"
"""In the place of a setting that a run does not have: another optimiser's, another version's."""

# Where a run was written, who was told, and how it was continued is no part of what it was.
LEFT_OUT = ("run_dir", "resume", "allowed_targets", "seed", "logger")

_DEEPEST = 10  # references to references
# Files of these groups set what they like; those of others only the group that they are in.
_GLOBAL_GROUPS = ("experiment", "sweep", "debug", "local")


@dataclass(frozen=True)
class Settings:
    """A run's settings by dotted name, each as one would type it."""

    values: Mapping[str, str]
    """References to other settings are resolved, but for those to what is left out."""
    written: Mapping[str, str]
    """As in the file, references and all."""
    choices: Mapping[str, str] = field(default_factory=dict)
    """The chosen file of each group."""
    overridden: frozenset[str] = frozenset()
    """What the command line named."""


def settings_of(
    config: DictConfig,
    choices: Mapping[str, str],
    overrides: Iterable[str],
    left_out: Collection[str] = LEFT_OUT,
) -> Settings:
    """Flatten a configuration.

    Args:
        config: of a run, interpolations as written.
        choices: the chosen file of each group.
        overrides: of the command line.
        left_out: settings, and sections as a whole, that are not to be compared.
    """
    flat = dict(_flat(OmegaConf.to_container(config, resolve=False)))
    kept = {name: value for name, value in flat.items() if not _is_in(name, left_out)}
    return Settings(
        {name: typed(_resolved(value, kept)) for name, value in kept.items()},
        {name: typed(value) for name, value in kept.items()},
        {group: choice for group, choice in choices.items() if not _is_in(group, left_out)},
        frozenset(override.lstrip("+~").partition("=")[0] for override in overrides),
    )


def differing(runs: Sequence[Settings]) -> list[str]:
    """The settings that are not the same in all runs, in the order of the configuration.

    What follows another setting by a reference in the file, as `${optimizer.lr}` does, is left to
    that one.
    """
    names = dict.fromkeys(name for run in runs for name in run.values)
    return [
        name
        for name in names
        if len({run.values.get(name) for run in runs}) > 1
        and len({run.written.get(name) for run in runs}) > 1
    ]


def implied_by_choices(runs: Sequence[Settings], names: Iterable[str]) -> dict[str, list[str]]:
    """Of the settings in `names` those that follow from which files were chosen, by group.

    `optimizer=adamw` says all that conf/optimizer/adamw.yaml says, as long as nothing in it was
    changed on a command line and the file is the same for all runs. Groups of which a run does not
    say its choice stand for nothing.
    """
    choices = [
        group
        for group in dict.fromkeys(group for run in runs for group in run.choices)
        if len({run.choices.get(group) for run in runs}) > 1
        and all(group in run.choices for run in runs)
    ]
    implied: dict[str, list[str]] = {}
    for name in names:
        if any(name in run.overridden for run in runs):
            continue
        for group in sorted(choices, key=lambda group: group not in _GLOBAL_GROUPS):
            may_say = group in _GLOBAL_GROUPS or _is_in(name, (group.replace("/", "."),))
            if may_say and _follows(runs, name, group):
                implied.setdefault(group, []).append(name)
                break
    return implied


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each setting's last part, or as many as tell it from the others."""
    found = {}
    for name in names:
        parts = name.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        found[name] = next(
            end
            for end in ends
            if not any(other != name and f".{other}".endswith(f".{end}") for other in names)
        )
    return found


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and (value or not name):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _is_in(name: str, sections: Collection[str]) -> bool:
    return any(f"{name}.".startswith(f"{section}.") for section in sections)


def _resolved(value: Any, flat: Mapping[str, Any]) -> Any:
    """Resolvers such as `oc.env` are not asked: the file may be a stranger's."""
    for _ in range(_DEEPEST):
        reference = REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if reference is None or reference[1] not in flat:
            return value
        value = flat[reference[1]]
    return value


def _follows(runs: Sequence[Settings], name: str, group: str) -> bool:
    """Whether a setting is the same for all runs of the same choice."""
    found: dict[str | None, str | None] = {}
    return all(
        found.setdefault(run.choices.get(group), run.values.get(name)) == run.values.get(name)
        for run in runs
    )
