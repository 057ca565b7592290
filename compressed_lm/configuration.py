"""gin, with the traps taken out: plain strings, unknown names and unused macros refused with a suggestion, the
resolved config saved."""

import ast
import dataclasses
import pathlib
import re
from collections.abc import Sequence

import gin

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.models import TransformerConfig, model_config
from compressed_lm.spelling import did_you_mean
from compressed_lm.training import TrainConfig

_PACKAGE = pathlib.Path(__file__).resolve().parent
GIN_FILES = next(path for path in (_PACKAGE.parent / "gin_configs", _PACKAGE / "gin_configs") if path.is_dir())
"""The gin files that come with the package: beside it in a checkout, inside it when installed."""

_INCLUDE = re.compile(r"""^include\s+(['"])(.+?)\1\s*(?:#.*)?$""", re.MULTILINE)
_BINDING = re.compile(r"^\s*([\w./]+)\s*=\s*(.*)$", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run is meant to be trained on, known before there is a token store.

    Attributes:
      codec: spelling of the codec; "" where any will do.
      bytes_per_token: bytes of text that a token stands for, end-of-document included; 0 where that is not known. A
        token store, where there is one, knows better.
    """

    codec: str = ""
    bytes_per_token: float = 0.0

    def __post_init__(self):
        if self.codec:
            from compressed_lm import codecs  # not above: a trainer that was given its store needs none of them

            object.__setattr__(self, "codec", codecs.canonical_spec(self.codec))
        if self.bytes_per_token < 0:
            raise InputError(f"data.bytes_per_token={self.bytes_per_token} was given; expected 0 or more.")

    @property
    def vocab_size(self) -> int | None:
        """V of the codec, or None where none is named."""
        if not self.codec:
            return None
        from compressed_lm import codecs

        return codecs.parse_spec(self.codec)[1].get("v", codecs.Bytes.vocab_size)

    def check(self, store) -> None:
        """Raises InputError if a token store was made with another codec than the run is meant for."""
        if self.codec and store.codec_spec != self.codec:
            raise InputError(
                f"The run is meant for the codec {self.codec} (data.codec), and the token store {store.path} was made "
                f"with {store.codec_spec}. Give a store of that codec, or `--set data.codec={store.codec_spec}` and a "
                "folder of its own for the run."
            )


Train = gin.external_configurable(TrainConfig, name="train", module="compressed_lm")
Model = gin.external_configurable(model_config, name="model", module="compressed_lm")
_Data = gin.external_configurable(Data, name="data", module="compressed_lm")
CONFIGURABLES = {
    "data": [f.name for f in dataclasses.fields(Data)],
    "train": [f.name for f in dataclasses.fields(TrainConfig)],
    "model": ["size", *(f.name for f in dataclasses.fields(TransformerConfig)[1:])],
}


def register(name: str, cls: type) -> type:
    """Makes a config dataclass bindable as `name.field = value`. Returns what to call instead of the class."""
    CONFIGURABLES[name] = [f.name for f in dataclasses.fields(cls)]
    return gin.external_configurable(cls, name=name, module="compressed_lm")


def find(path: str) -> pathlib.Path:
    """The gin file at a path, or of that name under `gin_configs/` of the package. Raises InputError with the names
    there are."""
    candidates = [
        io.local_path(path, "The gin file"),
        GIN_FILES.parent / path,
        GIN_FILES / path,
        GIN_FILES / f"{path}.gin",
    ]
    if path == io.STANDARD:
        return pathlib.Path("/dev/stdin")
    for candidate in candidates:
        if candidate.exists() and not candidate.is_dir():
            return candidate
    known = sorted(str(p.relative_to(GIN_FILES)) for p in GIN_FILES.glob("**/*.gin"))
    raise InputError(
        f"There is no gin file {path!r}.{did_you_mean(path, known)} Files that come with the package: "
        f"{', '.join(known)}."
    )


def _read(path: pathlib.Path, outer: tuple[pathlib.Path, ...] = ()) -> str:
    """The text of a gin file, with the files that it includes, found as by `find`, in their places."""
    if path in outer:
        raise InputError(f"The gin file {path} includes itself, by way of {outer[-1]}. Remove one of the includes.")
    return _INCLUDE.sub(lambda match: _read(find(match[2]), (*outer, path)), path.read_text(encoding="utf-8"))


def load(files: Sequence[str] = (), bindings: Sequence[str] = ()) -> str:
    """Parses gin files, then bindings such as `train.steps=500` or `m1/model.size=micro` over them.

    Strings in bindings need no quotes. A file may `include` another one by any name that `find` takes. Returns the
    resolved configuration as text.

    Raises:
      InputError: a file, a name or a macro is wrong, with what was probably meant.
    """
    gin.clear_config()
    try:
        with gin.unlock_config():
            for file in files:
                gin.parse_config(_read(find(file)))
            gin.parse_config([_quoted(binding) for binding in bindings])
    except InputError:
        raise
    except (ValueError, SyntaxError, OSError) as error:
        raise InputError(
            f"The configuration {', '.join([*files, *bindings])} cannot be used: {_explain(str(error))}"
        ) from error
    text = gin.config_str()
    macros = {name for _, name in ((k[1], k[0]) for k in gin.config._CONFIG if k[1] == "gin.macro")}
    unused = [macro for macro in macros if f"%{macro}" not in text]
    if unused:
        used = re.findall(r"%([\w.]+)", text)
        raise InputError(
            f"The macro {unused[0]} is set and never used.{did_you_mean(unused[0], used)} Remove it, or spell it "
            "as the configuration does."
        )
    return text


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
    if match := re.search(r"No configurable matching '([\w.]+)'", message):
        name = match[1].split("/")[-1]
        return f"there is no {name!r}.{did_you_mean(name, CONFIGURABLES)} What can be set: {', '.join(CONFIGURABLES)}."
    if match := re.search(r"Configurable '([\w.]+)' doesn't have a parameter named '(\w+)'", message):
        name = match[1].split(".")[-1]
        known = CONFIGURABLES.get(name, [])
        return f"{name} has no setting {match[2]!r}.{did_you_mean(match[2], known)} Its settings: {', '.join(known)}."
    return message


def model(vocab_size: int, scope: str = "", **overrides) -> TransformerConfig:
    """The model that the configuration describes, under a gin scope such as "m1"; `overrides` win."""
    with gin.config_scope(scope or None):
        try:
            return Model(vocab_size=vocab_size, **overrides)
        except TypeError as error:
            unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if not unknown:
                raise InputError(
                    f"The model is not described completely ({error}). Give a size, such as model.size=nano."
                ) from error
            known = CONFIGURABLES["model"]
            raise InputError(
                f"model has no setting {unknown[1]!r}.{did_you_mean(unknown[1], known)} Its settings: "
                f"{', '.join(known)}."
            ) from error


def model_after(config: TransformerConfig) -> TransformerConfig:
    """The model of a run that goes on from another one, whose config is given: that one's settings, but for those that
    the configuration names. Where it names a size, the configuration says it all."""
    bound = gin.config._CONFIG.get(("", "compressed_lm.model"), {})
    return model(config.vocab_size) if "size" in bound else dataclasses.replace(config, **bound)


def train(scope: str = "", **overrides) -> TrainConfig:
    """The training run that the configuration describes, under a gin scope such as "m1"; `overrides` win."""
    with gin.config_scope(scope or None):
        try:
            return Train(**overrides)
        except TypeError as error:
            raise InputError(
                f"The training run is not described completely ({error}). Give the number of steps, such as "
                "train.steps=500."
            ) from error


def data() -> Data:
    """What the configuration says about the data of a run."""
    return _Data()
