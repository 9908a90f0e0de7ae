"""Tiny backbones, made here, so that tests need no network and no download."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

pytest_plugins = ["report_records"]

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("PEFTBENCH_DATA", None)

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
"""Real data and golden values, where a development machine has them beside the checkout."""


def pytest_collection_finish() -> None:
    """Every run collects garbage, which among the objects of all these modules and tests takes most of its time."""
    gc.collect()
    gc.freeze()


TINY = {
    "bert": {"model_type": "bert"},
    "roberta": {"model_type": "roberta"},
    "deberta-v2": {
        "model_type": "deberta-v2",
        "relative_attention": True,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
        "pooler_hidden_size": 32,
    },
    "distilbert": {"model_type": "distilbert"},
    "electra": {"model_type": "electra", "embedding_size": 32},
    "mpnet": {"model_type": "mpnet"},
    "gpt2": {"model_type": "gpt2", "n_inner": 64, "bos_token_id": 2, "eos_token_id": 3},
    "llama": {"model_type": "llama", "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3},
    "t5": {"model_type": "t5", "eos_token_id": 3, "decoder_start_token_id": 0},
    "bart": {"model_type": "bart", "init_std": 0.2, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3},
}


def tiny_architecture(family: str) -> dict:
    """A two-layer, 32-wide architecture of `family` with a vocabulary of 600."""
    shape = {
        "vocab_size": 600,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 140,
    }
    if family == "distilbert":
        shape = {
            "vocab_size": 600, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 140,
        }  # fmt: skip
    if family == "t5":
        shape = {"vocab_size": 600, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    if family == "bart":
        shape = {"vocab_size": 600, "d_model": 32, "max_position_embeddings": 140} | {
            f"{stack}_{key}": value
            for stack in ("encoder", "decoder")
            for key, value in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))
        }
    return shape | TINY[family]


def tiny_model(family: str = "bert", outputs: int = 2, seed: int = 0):
    """A random tiny classifier of `family`, in evaluation mode."""
    from transformers import AutoModelForSequenceClassification

    return _tiny(AutoModelForSequenceClassification, family, seed, num_labels=outputs)


def tiny_generator(family: str, seed: int = 0):
    """A random tiny language model of `family` (a decoder or an encoder-decoder), in evaluation mode."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    auto = AutoModelForSeq2SeqLM if family in ("t5", "bart") else AutoModelForCausalLM
    return _tiny(auto, family, seed)


def stock_model(family: str = "bert", outputs: int = 2):
    """`tiny_model` as transformers builds it: GPT-2's maps are fused."""
    from transformers import AutoModelForSequenceClassification

    return _tiny(AutoModelForSequenceClassification, family, seed=0, split=False, num_labels=outputs)


def _tiny(auto, family: str, seed: int, split: bool = True, **changes):
    import torch
    from transformers import AutoConfig

    from peftbench.backbones.projections import split_fused

    torch.manual_seed(seed)
    model = auto.from_config(AutoConfig.for_model(**tiny_architecture(family), pad_token_id=0, **changes))
    if split:
        split_fused(model)
    return model.eval()


@pytest.fixture(scope="session")
def tiny_folder(tiny_folder_of) -> Path:
    """A tiny random BERT with a word-piece tokenizer of the sample's words, in the hub's layout."""
    return tiny_folder_of("bert")


@pytest.fixture(scope="session")
def tiny_folder_of(tmp_path_factory) -> Callable[[str], Path]:
    """Family -> a folder with a tiny random model and a tokenizer of the family's kind, in the hub's layout.

    Encoders come bare, decoders and encoder-decoders as the language models that the hub has.
    """

    @cache
    def make(family: str) -> Path:
        import torch
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

        folder = tmp_path_factory.mktemp(f"tiny-{family}")
        special = {} if family in DECODERS else {"pad_token_id": 0}
        shape = AutoConfig.for_model(**tiny_architecture(family), **special)
        torch.manual_seed(0)
        if family in DECODERS:
            auto = AutoModelForCausalLM
        else:
            auto = AutoModelForSeq2SeqLM if shape.is_encoder_decoder else AutoModel
        auto.from_config(shape).save_pretrained(folder)
        _tiny_tokenizer(family).save_pretrained(folder)
        return folder

    return make


DECODERS = ("gpt2", "llama")


def _tiny_tokenizer(family: str):
    """Word pieces of the sample's words for encoders, a unigram vocabulary for T5, byte pairs for the others.

    Special tokens are as the family has them: T5 ends a text with its end token, BART puts texts between two, decoders
    know no padding, and Llama's kind begins a text with a token of its own.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    from peftbench.tasks.sample import sample_split

    words = sample_split("mrpc", "train")["sentence1"][:500]
    if family not in (*DECODERS, "t5", "bart"):
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        core.normalizer = normalizers.BertNormalizer(lowercase=True)
        core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        core.train_from_iterator(words, trainers.WordPieceTrainer(vocab_size=600, special_tokens=special))
        core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        inputs = ["input_ids", *(["token_type_ids"] if family in ("bert", "electra") else []), "attention_mask"]
        return PreTrainedTokenizerFast(tokenizer_object=core, **names, model_input_names=inputs)
    special = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    if family == "t5":
        core = Tokenizer(models.Unigram())
        core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="<unk>")
    else:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
    core.train_from_iterator(words, trainer)
    single, pair = {
        "gpt2": ("$A", "$A $B"),
        "llama": ("<s> $A", "<s> $A <s> $B"),
        "t5": ("$A </s>", "$A </s> $B </s>"),
        "bart": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    }[family]
    ends = [("<s>", 2), ("</s>", 3)]
    core.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ends)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if family not in DECODERS:
        names |= {"pad_token": "<pad>", "mask_token": "<mask>"}
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=core, **names, model_input_names=inputs)


@pytest.fixture
def tiny_run(tiny_folder, tmp_path) -> list[str]:
    """Overrides of a run of seconds: tiny backbone, sample data, a temporary outputs folder."""
    return [
        "data=sample", f"model.path={tiny_folder}", f"outputs={tmp_path / 'outputs'}", "data.max_train_rows=64",
        "data.max_eval_rows=64", "task.max_length=32", "trainer.batch_size=16", "trainer.epochs=1", "trainer.threads=1",
        "trainer.eval_batch_size=24",
    ]  # fmt: skip
