"""Codecs and token stores in other libraries: tokenizers of transformers, data sets of PyTorch.

    from compressed_lm.integrations import export_tokenizer        # files of any codec's tokenizer
    from compressed_lm.integrations.transformers import CompressedTokenizer
    from compressed_lm.integrations.torch import TokenStoreDataset, TokenStoreIterable

`transformers` and `torch` are imported by the modules of these names only.
"""

import json
from collections.abc import Mapping

from compressed_lm import codecs
from compressed_lm.codecs import registry, tokenizers_codec
from compressed_lm.codecs.subword import SETTINGS_FILE
from compressed_lm.codecs.tokenizer_files import as_it_is
from compressed_lm.integrations import longest_match_json
from compressed_lm.integrations.special_tokens import SpecialTokens, check_end, settings

__all__ = ["CLASS", "CODEC_FOLDER", "README", "SpecialTokens", "code_and_readme", "export_tokenizer"]

CLASS = "CompressedTokenizer"
"""Class in `integrations.transformers` of the codecs that no tokenizer.json can express."""

CODEC_FOLDER, README = "codec", "TOKENIZER.md"
MODULE = "tokenization_compressed_lm"
AUTO_MAP = {"AutoTokenizer": [f"{MODULE}.{CLASS}", None]}
"""Class of a folder for transformers. Without it, some model types (qwen2, mistral, phi3) get a class of their own."""


def export_tokenizer(
    codec: codecs.Codec, *, special: Mapping[str, int] | None = None, model_type: str | None = None
) -> dict[str, bytes]:
    """Returns the tokenizer of a codec as transformers reads it: path in the folder -> content.

    ===================================  ============================================================================
    codec                                files
    ===================================  ============================================================================
    `bpe`, `tokenizers`,                 those of `codecs.tokenizer_files`; transformers loads them
    `sentencepiece` with merges
    `bytes`, `eiw` whose tokens are      an exact `tokenizer.json`; transformers loads it
    the entries of a dictionary
    all others                           the codec's own files for the class `CompressedTokenizer`, which transformers
                                         finds after `import compressed_lm.integrations.transformers`; says so in
                                         TOKENIZER.md
    ===================================  ============================================================================

    Args:
        codec: any codec.
        special: ids of special tokens by name, as in config.json (`bos_token_id`, ...): see `codecs.tokenizer_files`.
            Other codecs have only those of `SpecialTokens`. None for those of the codec.
        model_type: model_type of the config.json in the same folder, beside which transformers may replace a
            tokenizer.json (qwen2): files are added that prevent it. None for no model.

    Raises:
        InputError: another end of a document was requested than the codec has.
    """
    if (known := codecs.tokenizer_files(codec, special=special, model_type=model_type)) is not None:
        if isinstance(codec, tokenizers_codec.BPE):  # trained here, so that it has no settings of its own
            config = settings(codec) | json.loads(known[SETTINGS_FILE])
            known[SETTINGS_FILE] = (json.dumps(config, indent=2) + "\n").encode()
        return known
    check_end(codec, special)
    if (dictionary := longest_match_json.dictionary_of(codec)) is not None:
        return as_it_is(longest_match_json.files(codec, dictionary), model_type)
    return python_files(codec)


def python_files(codec: codecs.Codec) -> dict[str, bytes]:
    """Returns the files of any codec for the class `CompressedTokenizer`: path in the folder -> content."""
    added = dict(lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
    tokens = SpecialTokens.of(codec).by_id
    config = settings(codec) | {
        "tokenizer_class": CLASS,
        "auto_map": AUTO_MAP,
        "codec_spec": codec.spec,
        "codec_fingerprint": codec.fingerprint,
        "added_tokens_decoder": {str(i): {"content": token} | added for i, token in tokens.items()},
    }
    files = {f"{CODEC_FOLDER}/{name}": content for name, content in registry.saved(codec).items()}
    files[SETTINGS_FILE] = (json.dumps(config, indent=2) + "\n").encode()
    return files | code_and_readme(codec)


def code_and_readme(codec: codecs.Codec) -> dict[str, bytes]:
    """Returns the module that imports the class, and the page that says how to load the tokenizer of a folder."""
    code = f"""\"\"\"Tokenizer of this folder, from the package compressed_lm. See {README}.\"\"\"

from compressed_lm.integrations.transformers import {CLASS}

__all__ = ["{CLASS}"]
"""
    page = f"""# Tokenizer: {codec.spec}

The tokenizer of this folder is a codec of the Python package `compressed_lm`, stored in `{CODEC_FOLDER}/`. One import
makes it known to transformers:

```python
import compressed_lm.integrations.transformers
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```

`trust_remote_code` is not needed. Without the import, transformers asks for `trust_remote_code=True`, or reports that
it "couldn't instantiate the backend tokenizer".
"""
    return {f"{MODULE}.py": code.encode(), README: page.encode()}
