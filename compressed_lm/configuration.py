"""Strict gin configuration.

Strings need no quotes, values are checked by the fields of `settings`, and unknown names, unknown scopes and unused
macros are refused with a suggestion. It runs no code: imports and references to functions are refused before gin sees
them. The resolved configuration is text that can be loaded again.
"""

import ast
import dataclasses
import pathlib
import re
import tokenize
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import gin
from gin import config_parser

from compressed_lm import io, settings
from compressed_lm.errors import InputError
from compressed_lm.models import TransformerConfig, model_config
from compressed_lm.models.sizes import SIZES
from compressed_lm.settings import setting
from compressed_lm.specs import did_you_mean
from compressed_lm.training import TrainConfig

if TYPE_CHECKING:
    from compressed_lm.data.store import TokenStore

_PACKAGE = pathlib.Path(__file__).resolve().parent
GIN_FILES = next(path for path in (_PACKAGE.parent / "gin_configs", _PACKAGE / "gin_configs") if path.is_dir())
"""Folder of the package's gin files: beside the package in a checkout, inside it when installed."""

_INCLUDE = re.compile(r"""^include\s+(['"])(.+?)\1\s*(?:#.*)?$""", re.MULTILINE)
_MODULE, _MACRO = "compressed_lm", "gin.macro"
_BINDING = re.compile(r"^\s*([\w./]+)\s*=\s*(.*)$", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Data:
    """Training data of a run, before a token store exists.

    Attributes:
        codec: spec of the codec; "" for any.
        bytes_per_token: bytes of text per token, end-of-document included; 0 if unknown. The value of a token store
            takes precedence.
    """

    codec: str = ""
    bytes_per_token: float = setting(0.0, low=0)

    def __post_init__(self) -> None:
        settings.check(self)
        if self.codec:
            from compressed_lm import codecs  # lazy: a trainer with a token store does not need them

            object.__setattr__(self, "codec", codecs.canonical_spec(self.codec))

    @property
    def vocab_size(self) -> int | None:
        """V of the codec, or None if no codec is set."""
        if not self.codec:
            return None
        from compressed_lm import codecs

        return int(codecs.parse_spec(self.codec)[1].get("v", codecs.Bytes.vocab_size))

    def check(self, store: "TokenStore") -> None:
        """Raises InputError if a token store was made with another codec than `codec`."""
        if self.codec and store.codec_spec != self.codec:
            raise InputError(
                f"The run is configured for the codec {self.codec} (data.codec), and the token store {store.path} was "
                f"made with {store.codec_spec}. Give a store of that codec, or `--set data.codec={store.codec_spec}` "
                "and a new folder for the run."
            )


Train = gin.external_configurable(TrainConfig, name="train", module="compressed_lm")
Model = gin.external_configurable(model_config, name="model", module="compressed_lm")
_Data = gin.external_configurable(Data, name="data", module="compressed_lm")


@dataclasses.dataclass(frozen=True)
class _Size:
    size: str = setting("", choices=SIZES)


def _fields(*classes: Any) -> dict[str, dataclasses.Field]:
    return {field.name: field for cls in classes for field in dataclasses.fields(cls)}


CONFIGURABLES: dict[str, dict[str, dataclasses.Field]] = {}
"""All settings: name -> setting -> dataclass field."""


def register(name: str, make: Callable, fields: dict[str, dataclasses.Field] | None = None) -> Callable:
    """Makes a config dataclass bindable as `name.field = value`.

    Args:
        name: its name in bindings.
        make: the dataclass, or a function that makes one.
        fields: its settings; None for the fields of the dataclass.

    Returns:
        A function of a scope and overrides that calls `make` with the bound settings.
    """
    CONFIGURABLES[name] = _fields(make) if fields is None else fields
    gin.external_configurable(make, name=name, module=_MODULE)

    def configured(scope: str = "", **overrides: Any) -> Any:
        return make(**(_bound(name) | _bound(name, scope) | overrides))

    return configured


def _bound(name: str, scope: str = "") -> dict:
    """Returns the settings that are bound directly in a scope."""
    return dict(gin.config._CONFIG.get((scope, f"{_MODULE}.{name}"), {}))


def find(path: str) -> pathlib.Path:
    """Returns the gin file at a path, or of that name in the package's `gin_configs/`.

    Raises:
        InputError: there is no such file; the message lists the package's files.
    """
    candidates = [
        io.local_path(path, "The gin file"),
        GIN_FILES.parent / path,
        GIN_FILES / path,
        GIN_FILES / f"{path}.gin",
    ]
    if path == io.STANDARD:
        return pathlib.Path("/dev/stdin")
    for candidate in candidates:
        if candidate.is_file() or candidate.is_fifo():
            return candidate
    if path and candidates[0].exists():
        raise InputError(f"{path!r} was given as a gin file and is a folder or a device; give a file.")
    known = sorted(str(p.relative_to(GIN_FILES)) for p in GIN_FILES.glob("**/*.gin"))
    raise InputError(
        f"There is no gin file {path!r}.{did_you_mean(path, known)} Files that come with the package: "
        f"{', '.join(known)}."
    )


def _read(path: pathlib.Path, outer: tuple[pathlib.Path, ...] = ()) -> str:
    """Returns the text of a gin file; included files, found by `find`, are inserted."""
    if path in outer:
        raise InputError(f"The gin file {path} includes itself, by way of {outer[-1]}. Remove one of the includes.")
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors write a byte-order mark
    except UnicodeDecodeError as error:
        raise InputError(
            f"The gin file {path} is not UTF-8 text: its byte {error.start:,} is {error.object[error.start]:#04x}. "
            "Save it as UTF-8."
        ) from None
    return _INCLUDE.sub(lambda match: _read(find(match[2]), (*outer, path)), text)


def load(files: Sequence[str] = (), bindings: Sequence[str] = (), *, scopes: Sequence[str] = ()) -> str:
    """Parses gin files, then bindings such as `train.steps=500` or `m1/model.size=micro`, which override them.

    Strings in bindings need no quotes. A file may `include` another one by any name that `find` accepts.

    Args:
        files: names of gin files, as `find` accepts them.
        bindings: settings that override the files.
        scopes: names of the scopes that the caller reads, such as "m1" for `m1/train.steps`; others are refused.

    Returns:
        The resolved configuration as text.

    Raises:
        InputError: a file, a name, a scope, a value or a macro is wrong; the message suggests a correction.
    """
    gin.clear_config()
    overridden: list[tuple[str, str, dict]] = []  # a wrong value is an error even if a later binding overrides it
    for file in files:
        _parse(_read(find(file)), file)
    for binding in bindings:
        overridden += [(*names, dict(values)) for names, values in gin.config._CONFIG.items()]
        _parse(_quoted(binding), binding)
    text = gin.config_str()
    for scope, selector, values in [*overridden, *((*names, values) for names, values in gin.config._CONFIG.items())]:
        if selector != _MACRO:
            _check(scope, selector, values, scopes)
    macros = {name for name, selector in gin.config._CONFIG if selector == _MACRO}
    unused = [macro for macro in macros if f"%{macro}" not in text]
    if unused:
        used = re.findall(r"%([\w.]+)", text)
        raise InputError(
            f"The macro {unused[0]} is set and never used.{did_you_mean(unused[0], used)} Remove it, or correct its "
            "name."
        )
    return text


def _parse(text: str, source: str) -> None:
    """Parses a gin text. Raises InputError with the name of its source."""
    wrong = (ValueError, TypeError, SyntaxError, OSError, ImportError, tokenize.TokenError, RecursionError, MemoryError)
    try:
        _refuse_code(text)
        with gin.unlock_config():
            gin.parse_config(text)
    except InputError:
        raise
    except wrong as error:  # gin has no exception type for syntax errors
        message = _explain(str(error) or type(error).__name__)
        raise InputError(f"The configuration {settings.shown(source)} cannot be used: {message}") from error


def _refuse_code(text: str) -> None:
    """Raises InputError for statements that import modules, call functions or read other files."""
    values = _Values()
    for statement in config_parser.ConfigParser(text, values):
        if values.references:
            raise InputError(
                f"@{values.references[0]} is a reference; expected a value, such as 500: a configuration runs no code."
            )
        if isinstance(statement, config_parser.ImportStatement):
            raise InputError(
                f"`import {statement.module}` in line {statement.location.line_num}: a configuration sets values and "
                "runs no code. Remove the line; no setting needs an import."
            )
        if isinstance(statement, config_parser.IncludeStatement):
            raise InputError(
                f"`include` in line {statement.location.line_num} is not written as expected: `include 'NAME.gin'`, at "
                "the beginning of a line of its own."
            )


class _Values(config_parser.ParserDelegate):
    """Collects references to functions, which gin would call; ignores macros."""

    def __init__(self) -> None:
        self.references: list[str] = []

    def configurable_reference(self, scoped_selector: str, evaluate: bool) -> None:
        self.references.append(f"{scoped_selector}{'()' * evaluate}")

    def macro(self, name: str) -> None:
        return None


def _check(scope: str, selector: str, values: dict, scopes: Sequence[str]) -> None:
    """Checks the bound settings of a name in a scope, and converts them to their declared types."""
    name = selector.rpartition(".")[2]
    written = f"{scope}/{name}" if scope else name
    if name not in CONFIGURABLES:
        raise InputError(f"There is no {written!r}. Known: {', '.join(CONFIGURABLES)}.")
    if scope and scope not in scopes:
        known = f"the scopes here are {', '.join(scopes)}" if scopes else f"write {name}, without a scope"
        raise InputError(
            f"{written}.{next(iter(values))} was set, and nothing reads the scope {scope!r}: {known}."
            f"{did_you_mean(scope, scopes)}"
        )
    for key, value in values.items():
        if key not in CONFIGURABLES[name]:
            raise InputError(_unknown(name, key))
        value = _value(value, f"{written}.{key}")
        values[key] = settings.checked_field(CONFIGURABLES[name][key], value, name=f"{written}.{key}")


def _value(value: Any, name: str, outer: tuple[str, ...] = ()) -> Any:
    """Returns a bound value with macros replaced by their values."""
    if isinstance(value, list | tuple):
        return tuple(_value(item, name, outer) for item in value)
    if not isinstance(value, gin.config.ConfigurableReference):
        return value
    macro, known = str(value)[1:], [name for name, selector in gin.config._CONFIG if selector == _MACRO]
    if macro in outer:
        raise InputError(f"{name}={value} was given, which refers to itself; expected a value, such as 500.")
    if macro not in known:
        raise InputError(
            f"{name}={value} was given, and there is no macro {macro}.{did_you_mean(macro, known)} Set it ({macro} = "
            "...), or give a value."
        )
    return _value(gin.config._CONFIG[macro, _MACRO]["value"], name, (*outer, macro))


def _quoted(binding: str) -> str:
    match = _BINDING.match(binding)
    if not match:
        raise InputError(f"{binding!r} was given where a setting such as train.steps=500 was expected.")
    name, value = match.groups()
    if value.startswith(("@", "%")):
        return f"{name} = {value}"
    try:
        ast.literal_eval(value)
        return f"{name} = {value}"
    except (ValueError, SyntaxError):
        return f"{name} = {value!r}"


def _explain(message: str) -> str:
    message = message.strip().splitlines()[0]
    if match := re.search(r"No configurable matching '([\w./]+)'", message):
        name = match[1].split("/")[-1]
        return f"there is no {name!r}.{did_you_mean(name, CONFIGURABLES)} Known: {', '.join(CONFIGURABLES)}."
    if match := re.search(r"Configurable '([\w.]+)' doesn't have a parameter named '(\w+)'", message):
        return _unknown(match[1].split(".")[-1], match[2])
    if message.startswith("malformed node"):
        return "a value is not a number, True, False, None, a quoted string or a tuple of these. Quote strings."
    return message.rstrip(".") + "."


def _unknown(name: str, key: str) -> str:
    known: Iterable[str] = CONFIGURABLES.get(name, ())
    return f"{name} has no setting {key!r}.{did_you_mean(key, known)} Its settings: {', '.join(known)}."


_shape = {k: v for k, v in _fields(_Size, TransformerConfig).items() if k != "vocab_size"}  # set by the codec
_Data, _Train = register("data", Data), register("train", TrainConfig)
_Model = register("model", model_config, _shape)


def model(vocab_size: int, scope: str = "", **overrides: Any) -> TransformerConfig:
    """Returns the configured model, under a gin scope such as "m1"; `overrides` take precedence."""
    if "size" not in _bound("model") | _bound("model", scope) | overrides:
        raise InputError("The model is not described completely. Give a size, such as model.size=nano.")
    return _Model(scope, vocab_size=vocab_size, **overrides)


def model_after(config: TransformerConfig) -> TransformerConfig:
    """Returns the model of a run that continues from another run.

    If the configuration sets `model.size`, it describes the whole model; otherwise it overrides single settings.

    Args:
        config: model of the other run.
    """
    bound = _bound("model")
    return model(config.vocab_size) if "size" in bound else dataclasses.replace(config, **bound)


def train(scope: str = "", **overrides: Any) -> TrainConfig:
    """Returns the configured training run, under a gin scope such as "m1"; `overrides` take precedence."""
    if "steps" not in _bound("train") | _bound("train", scope) | overrides:
        raise InputError(
            "The training run is not described completely. Give the number of steps, such as train.steps=500."
        )
    return _Train(scope, **overrides)


def data() -> Data:
    """Returns the configured data of a run."""
    return _Data()
