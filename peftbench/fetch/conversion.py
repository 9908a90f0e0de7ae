"""A GGUF file as a plain transformers folder: float32 weights, configuration, tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peftbench.errors import ConfigurationError, first_line


def convert(file: Path, folder: Path) -> None:
    """Write `folder`: `model.safetensors` (float32), `config.json`, `generation_config.json`, tokenizer files.

    transformers reads the file: it dequantises block by block (Q4_1: d·q + m with d and m in half precision), puts the
    rows of Llama's query and key projections back into its own order of rotary pairs, and takes shape, vocabulary,
    merges, special tokens and chat template from the file's header. Two things it leaves to us: how text is cut before
    merges apply (`_cut`), and constants that the file keeps in single precision (`_settle`).

    Args:
        file: the GGUF file, alone in its folder or not.
        folder: an empty one.

    Raises:
        ConfigurationError: the file is not one that transformers reads wholly.
    """
    from gguf import GGUFReader

    from peftbench.backbones.loading import quiet_transformers

    quiet_transformers()
    try:
        reader = GGUFReader(file)
        header = {key: field.contents() for key, field in reader.fields.items() if key.startswith("tokenizer.")}
        _weights(file, folder)
        _tokenizer(file, folder, header)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigurationError(f"{file.name}: cannot be converted ({first_line(error)})") from error


def _weights(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    read, info = AutoModelForCausalLM.from_pretrained(  # type: ignore
        file.parent, gguf_file=file.name, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
    )
    wrong = sorted(key for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[kind])
    if wrong:
        raise ValueError(f"weights do not match the architecture: {wrong[0]}")
    config = read.config
    del config.quantization_config  # The copy is a plain model, and trains as one.
    _settle(config)
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(read.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = read.generation_config
    plain.save_pretrained(folder, max_shard_size="1TB")
    for name in ("config.json", "generation_config.json"):
        _forget(folder / name, "transformers_version", "_model_name_or_path", "_from_model_config")


def _settle(config: Any) -> None:
    """Constants as published: the file's single-precision 1e-5 reads 9.999999747378752e-06 in double precision."""
    import numpy as np

    for key, value in config.to_dict().items():
        if isinstance(value, float):
            setattr(config, key, float(str(np.float32(value))))


def _forget(file: Path, *keys: str) -> None:
    """Where and by what it was converted is left out: the copy's digests are part of a run's name."""
    values = json.loads(file.read_text(encoding="utf-8"))
    kept = {key: value for key, value in values.items() if key not in keys}
    file.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _tokenizer(file: Path, folder: Path, header: dict[str, Any]) -> None:
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.backend_tokenizer.pre_tokenizer = _cut(header.get("tokenizer.ggml.pre"))
    tokenizer.model_max_length = AutoConfig.from_pretrained(folder).max_position_embeddings
    tokenizer.save_pretrained(folder)
    _forget(folder / "tokenizer_config.json", "is_local", "local_files_only")
    again = AutoTokenizer.from_pretrained(folder)
    if again.get_vocab() != {token: i for i, token in enumerate(header["tokenizer.ggml.tokens"])}:
        raise ValueError("the tokenizer's vocabulary does not come back as the file has it")


def _cut(name: str | None) -> Any:
    """How text is cut into words before merges apply, by the name that the file gives it.

    `smollm` isolates every digit and then cuts as GPT-2 does, which transformers 5.23 does not know: it would feed the
    two blanks before a number as two tokens where the model was trained on one.
    """
    from tokenizers import pre_tokenizers

    if name != "smollm":
        raise ValueError(f"its text is cut as {name}, which is not known here")
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
