"""`_target_` sections: a class or function with its arguments, checked before anything is built.

The signature of the target is the schema: the arguments' names, types and bounds stand beside the
code that uses them, and nowhere else.
"""

import inspect
import pkgutil
import typing
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from vgglab.config.errors import did_you_mean
from vgglab.errors import InputError

# `hydra.utils.instantiate` would call anything importable; its authors call their own block-list
# incomplete. Only these packages are called, and only for what a slot asks for (see `Component`).
ALLOWED_PACKAGES = ("vgglab", "torch", "torchvision", "torchmetrics", "lightning")

# Where the target must have been defined: names reach into other modules through attributes
# (`vgglab.some.module.os`), and these packages hold more than components. Left out, though they
# fit a slot: torch.fx (`reduce_graph_module` runs the source text in its arguments), the rest of
# torch and torchmetrics that rewrites, traces, exports, scripts or fetches models, lightning's
# demos (an unsafe `torch.load`) and the loggers that send a run to a server named in the file.
ALLOWED_HOMES = (
    "vgglab",
    "torch.nn",
    "torch.optim",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms",
    "torchmetrics.aggregation",
    "torchmetrics.classification",
    "torchmetrics.regression",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers.csv_logs",
    "lightning.pytorch.loggers.tensorboard",
)

# Words of `hydra.utils.instantiate`, which is not used: a section is built, what is in it is not.
_INSTANTIATE = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")

Self = typing.TypeVar("Self", bound="Component")  # `typing.Self` is of Python 3.11


class Component(BaseModel):
    """One `_target_` section. A subclass names the slot: what the target must make."""

    model_config = ConfigDict(extra="allow", frozen=True)

    slot: ClassVar[str]
    """The class, by its dotted name, that the target is or returns."""
    supplied: ClassVar[tuple[str, ...]] = ()
    """Arguments that the run supplies where the configuration leaves them out or null."""

    target: str = Field(alias="_target_")

    @property
    def arguments(self) -> dict[str, Any]:
        """The configured arguments, without those left to the run."""
        given = self.model_extra or {}
        return {
            name: value
            for name, value in given.items()
            if not (value is None and name in self.supplied)
        }

    def checked(self: Self, path: str, allowed_targets: Sequence[str] = ()) -> Self:
        """The same component with its arguments as the target's annotations want them.

        Args:
            path: the section's name in the configuration, for the message.
            allowed_targets: more packages or targets that may be called.

        Raises:
            InputError: the target does not exist, is not allowed or does not take these arguments;
                the message has the setting's full name, what is wrong and the choices.
        """
        _refuse_instantiation(path, self.arguments)
        target = self._locate(path, allowed_targets)
        self._check_slot(path, target)
        self._check_home(path, target, allowed_targets)
        parameters, closed = _parameters(target)
        values = {}
        for name, value in self.arguments.items():
            if name in parameters:
                annotation = parameters[name].annotation
                values[name] = _checked_value(f"{path}.{name}", value, annotation)
            elif closed:
                choices = did_you_mean(name, set(parameters) - set(self.supplied))
                raise InputError(f"{path}.{name}: {self.target} has no such setting; {choices}")
        for name, parameter in parameters.items():
            required = parameter.default is inspect.Parameter.empty
            if required and name not in self.arguments and name not in self.supplied:
                raise InputError(f"{path}.{name} is required by {self.target}")
        return self.with_arguments(**values)

    def build(self, path: str, **supplied: Any) -> Any:
        """Call the target with the configured and the supplied arguments; the configured ones win.

        Raises:
            InputError: the target refuses the values.
        """
        try:
            return pkgutil.resolve_name(self.target)(**{**supplied, **self.arguments})
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: {error}") from error

    def with_arguments(self: Self, **arguments: Any) -> Self:
        """The same target with some arguments changed."""
        return self.model_copy(update=arguments)

    def accepts(self, name: str) -> bool:
        """Whether the target has an argument of this name."""
        return name in _parameters(pkgutil.resolve_name(self.target))[0]

    def _locate(self, path: str, allowed_targets: Sequence[str]) -> Callable[..., Any]:
        allowed = (*ALLOWED_PACKAGES, *allowed_targets)
        if not is_inside(self.target, allowed):
            raise self._outside(path, f"the packages that may be called ({', '.join(allowed)})")
        try:
            target = pkgutil.resolve_name(self.target)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"{path}._target_={self.target} cannot be used: {error}") from error
        return typing.cast("Callable[..., Any]", target)

    def _check_slot(self, path: str, target: Callable[..., Any]) -> None:
        makes: Any = target
        if inspect.isfunction(target) and target.__qualname__ == target.__name__:  # no method
            makes = _hints(target).get("return")
        wanted = pkgutil.resolve_name(self.slot)
        if not (inspect.isclass(makes) and issubclass(makes, wanted)):
            remedy = "" if makes else f"; annotate what it returns (`-> {self.slot}`)"
            raise InputError(
                f"{path}._target_={self.target} does not make a {self.slot}, "
                f"which {path} must be{remedy}"
            )

    def _check_home(
        self, path: str, target: Callable[..., Any], allowed_targets: Sequence[str]
    ) -> None:
        allowed = (*ALLOWED_HOMES, *allowed_targets)
        if self.target not in allowed_targets and not is_inside(target.__module__, allowed):
            raise self._outside(
                path,
                f"the modules of {', '.join(ALLOWED_PACKAGES)} that may be called: "
                f"it comes from {target.__module__}",
            )

    def _outside(self, path: str, of_what: str) -> InputError:
        return InputError(
            f"{path}._target_={self.target} is outside {of_what}; if you trust it, add "
            f"allowed_targets=[{self.target}] to the command line"
        )


def is_inside(name: str, packages: Sequence[str]) -> bool:
    """Whether a dotted name is one of the packages, or below one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _refuse_instantiation(path: str, value: Any) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in _INSTANTIATE:
                raise InputError(
                    f"{path}.{name}: only the section itself is built, not what is in it, "
                    f"and from a _target_ and its arguments alone; leave {name} out"
                )
            _refuse_instantiation(f"{path}.{name}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_instantiation(f"{path}[{index}]", inner)


def _parameters(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The named parameters with resolved annotations, and whether there can be no others.

    A class that passes `**kwargs` on takes its bases' parameters too.
    """
    functions = [target]
    if inspect.isclass(target):
        functions = [c.__dict__["__init__"] for c in target.__mro__ if "__init__" in c.__dict__]
    found: dict[str, inspect.Parameter] = {}
    for function in functions:
        if function is object.__init__:
            break
        hints = _hints(function)
        passes_on = False
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                passes_on = True
            elif name != "self" and parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
                found.setdefault(name, parameter.replace(annotation=hints.get(name, Any)))
        if not passes_on:
            return found, True
    return found, False


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # names that exist for type checkers only
        return {}


def _checked_value(name: str, value: Any, annotation: Any) -> Any:
    try:
        # No setting of ours means something where it is not a finite number.
        config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
        adapter = TypeAdapter(annotation, config=config)
    except (PydanticSchemaGenerationError, PydanticUserError):
        return value  # a type that YAML cannot express; the target itself will check it
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        messages = dict.fromkeys(e["msg"][0].lower() + e["msg"][1:] for e in error.errors())
        raise InputError(f"{name}={value!r}: {', or '.join(messages)}") from error
