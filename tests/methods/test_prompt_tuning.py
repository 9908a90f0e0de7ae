"""Prompt tuning against HF PEFT, and its starts, counts and neighbours against what the test works out itself."""

import json

import pytest
import torch
from conftest import TINY, tiny_generator, tiny_model
from contracts.test_methods import attached, logits, train
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, normalizers
from torch.testing import assert_close
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from peftbench.assembly import check_length
from peftbench.backbones.anatomy import backbone, head_modules, max_positions
from peftbench.doors import Context
from peftbench.errors import ConfigurationError
from peftbench.methods.parts.prompts import word_ids
from peftbench.methods.prompt_tuning import PromptTuning

PIECES = {"entailed": [21, 22, 23], "not entailed": [10, 21, 22, 23], "yes": [30]}


class Words:
    """The little of a tokenizer that a start asks for."""

    all_special_ids = ()

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": PIECES[text.strip()]}

    def convert_ids_to_tokens(self, ids):
        return [f"<{i}>" for i in ids]


def start(family="bert", words=(), tokenizer=None, seed=0, model=None, **settings):
    """A freshly attached prompt, and the model."""
    model = tiny_model(family) if model is None else model
    context = Context(torch.Generator().manual_seed(seed), 1, "tiny", (), tokenizer, words)
    return PromptTuning(**settings).attach(model.requires_grad_(False), context), model


def table(model):
    return backbone(model).get_input_embeddings().weight.detach()


def right_padded():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 600, (3, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def peft_twin(model, weight, task, **settings):
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type=task, num_virtual_tokens=len(weight), **settings)
    twin = peft.get_peft_model(model, config).eval()
    encoder = twin.prompt_encoder["default"].embedding.weight
    assert encoder.shape == weight.shape
    with torch.no_grad():
        encoder.copy_(weight)
    return twin


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_language_model_has_pefts_logits(family):
    attachment, model = start(model=tiny_generator(family), init="random", length=7)
    twin = peft_twin(tiny_generator(family), attachment.prompt.weight, "CAUSAL_LM")
    with torch.no_grad():
        ours, theirs = model(**right_padded()).logits, twin(**right_padded()).logits[:, 7:]
    real = right_padded()["attention_mask"] > 0
    assert_close(ours[real], theirs[real], rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_decoder_has_pefts_logits_gradients_and_text(family):
    attachment, model = start(model=tiny_generator(family), init="random", length=7)
    twin = peft_twin(tiny_generator(family), attachment.prompt.weight, "SEQ_2_SEQ_LM", num_transformer_submodules=1)
    batch = right_padded() | {"labels": torch.randint(5, 600, (3, 4), generator=torch.Generator().manual_seed(2))}
    ours, theirs = model(**batch), twin(**batch)
    assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-6)
    ours.loss.backward()
    theirs.loss.backward()
    expected = twin.prompt_encoder["default"].embedding.weight.grad
    assert expected.abs().sum() > 0
    assert_close(attachment.prompt.weight.grad, expected, rtol=1e-5, atol=1e-7)
    settings = {"max_new_tokens": 6, "do_sample": False, "num_beams": 2, "eos_token_id": None}
    assert torch.equal(model.generate(**right_padded(), **settings), twin.generate(**right_padded(), **settings))


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "electra", "mpnet"])
def test_an_encoder_has_pefts_hidden_states(family):
    attachment, model = start(model=backbone(tiny_model(family)), init="random", length=7)
    twin = peft_twin(backbone(tiny_model(family)), attachment.prompt.weight, "FEATURE_EXTRACTION")
    with torch.no_grad():
        ours, theirs = model(**right_padded())[0], twin(**right_padded())[0][:, 7:]
    real = right_padded()["attention_mask"] > 0
    assert_close(ours[real], theirs[real], rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_decoder_classifies_as_peft_does_where_nothing_is_padded(family):
    """PEFT pools the last position, which is the last real token only without padding."""
    attachment, model = start(family, init="random", length=7)
    twin = peft_twin(tiny_model(family), attachment.prompt.weight, "SEQ_CLS")
    ids = right_padded()["input_ids"][1:]
    with torch.no_grad():
        assert_close(model(input_ids=ids).logits, twin(input_ids=ids).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", TINY)
def test_the_prompt_alone_is_trained_and_moves_the_output(family):
    attachment, model = start(family, init="random", length=4)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [f"{attachment.path}.weight"]
    before = logits(model)
    model(**right_padded() | {"input_ids": with_end()}).logits.square().sum().backward()
    gradient = attachment.prompt.weight.grad
    assert gradient.abs().amax(1).min() > 0
    with torch.no_grad():
        # A shift of every element alike would be what layer norms take out.
        attachment.prompt.weight *= -3
    assert (logits(model) - before).abs().max() > 1e-6


def with_end():
    ids = right_padded()["input_ids"].clone()
    ids[0, 5] = ids[1, 8] = ids[2, 8] = 3
    return ids


@pytest.mark.parametrize("length", [1, 5, 20, 100, 150])
@pytest.mark.parametrize("family", ["t5", "gpt2", "bert"])
def test_the_papers_lengths_fit_or_are_refused_in_words(family, length):
    model = tiny_model(family)
    if family != "t5" and length == 150:
        with pytest.raises(ConfigurationError, match="150 virtual tokens exceed the backbone's 140"):
            check_length(model, 1, PromptTuning(length=length).positions_taken(model))
        return
    attachment, model = start(model=model, length=length)
    assert attachment.count().stored == attachment.count().trained == length * 32
    assert logits(model).isfinite().all()


def test_a_prompt_and_an_input_too_long_for_the_positions_are_refused_in_words():
    model = tiny_model("roberta")
    assert max_positions(model) == 139
    check_length(model, 119, PromptTuning(length=20).positions_taken(model))
    with pytest.raises(ConfigurationError, match=r"120 tokens and the method's 20 virtual tokens exceed .* 139"):
        check_length(model, 120, PromptTuning(length=20).positions_taken(model))


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning"])
def test_a_run_whose_input_and_prompt_are_too_long_is_refused_before_it_begins(method, tiny_run):
    from peftbench.compose import compose_run
    from peftbench.experiment import run_experiment

    with pytest.raises(ConfigurationError, match=r"138 tokens and the method's \d+ virtual tokens exceed"):
        run_experiment(compose_run([*tiny_run, f"method={method}", "task.max_length=138"]))


def test_a_run_tells_the_neighbours_of_its_prompt(tiny_run):
    from peftbench.compose import compose_run
    from peftbench.experiment import run_experiment

    record, folder = run_experiment(compose_run([*tiny_run, "method=prompt_tuning", "method.length=3"]))
    found = json.loads((folder / "analysis.json").read_text())["neighbours"]
    assert [len(near) for near in found] == [5, 5, 5]
    assert record["parameters"]["trained"] == record["parameters"]["stored"] == 3 * 32


def test_labels_start_at_the_average_of_their_pieces():
    attachment, model = start(words=("not entailed", "yes", "entailed"), tokenizer=Words(), length=5)
    rows = table(model)
    weight = attachment.prompt.weight
    assert_close(weight[0], (rows[10] + rows[21] + rows[22] + rows[23]) / 4)
    assert_close(weight[1], rows[30])
    assert_close(weight[2], (rows[21] + rows[22] + rows[23]) / 3)
    rest, _ = start(init="vocabulary", length=5)
    assert torch.equal(weight[3:], rest.prompt.weight[3:])
    short, _ = start(words=("not entailed", "yes", "entailed"), tokenizer=Words(), length=2)
    assert torch.equal(short.prompt.weight, weight[:2])


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("rte", ("entailment", "not_entailment")),
        ("wsc", ("commonsense", "pronoun", "resolution")),  # Lester et al. (2021), as for ReCoRD.
        ("record", ("commonsense", "reasoning", "reading", "comprehension")),
    ],
)
def test_a_tasks_prompt_starts_from_its_classes_names_or_the_papers_words(task, words, tiny_run, monkeypatch):
    from peftbench.compose import compose_run
    from peftbench.experiment import Run, run_experiment

    seen = []
    monkeypatch.setattr(Run, "carry_out", lambda self, began: seen.append(self) or {})
    run_experiment(compose_run([*tiny_run, "method=prompt_tuning", f"task={task}", "task.max_length=64"]))
    (run,) = seen
    tokenizer, rows = run.rows.form.tokenizer, table(run.model)
    for slot, word in enumerate(words):
        pieces = tokenizer(word, add_special_tokens=False)["input_ids"]
        assert_close(run.attachment.prompt.weight[slot], rows[pieces].mean(0))
    assert run.attachment.flags() == []


def test_a_task_without_classes_says_what_its_prompt_started_from(tiny_run):
    from peftbench.compose import compose_run
    from peftbench.experiment import run_experiment

    line = [*tiny_run, "task=stsb", "method=prompt_tuning", "method.length=3"]
    by_labels, _ = run_experiment(compose_run(line))
    by_words, _ = run_experiment(compose_run([*line, "method.init=vocabulary"]))
    assert by_labels["metrics"] == by_words["metrics"]
    (flag,) = set(by_labels["flags"]) - set(by_words["flags"])
    assert flag.startswith("method.init=labels: the task has no classes, so the prompt started as")


def test_words_are_drawn_once_each_among_the_first_of_the_vocabulary(monkeypatch):
    from peftbench.methods.parts import prompts

    monkeypatch.setattr(prompts, "POPULATION", 40)
    attachment, model = start(init="vocabulary", length=40, seed=3)
    ids = [(table(model) == row).all(1).nonzero().item() for row in attachment.prompt.weight.detach()]
    assert sorted(ids) == list(range(40))
    assert ids != sorted(ids)
    longer, _ = start(init="vocabulary", length=60)
    assert longer.prompt.weight.shape == (60, 32)


def test_special_and_unused_tokens_are_no_starts(monkeypatch):
    from peftbench.methods.parts import prompts

    names = {3: "[unused0]", 4: "[unused17]", 5: "<unused2>", 6: "unused", 7: "[used]"}

    class Known(Words):
        all_special_ids = (0, 2)

        def convert_ids_to_tokens(self, ids):
            return [names.get(i, f"<{i}>") if i < 44 else None for i in ids]

    monkeypatch.setattr(prompts, "POPULATION", 30)
    for population, expected in ((30, [1, *range(6, 35)]), (100, [1, *range(6, 44)])):
        monkeypatch.setattr(prompts, "POPULATION", population)
        attachment, model = start(init="vocabulary", tokenizer=Known(), length=len(expected))
        ids = [(table(model) == row).all(1).nonzero().item() for row in attachment.prompt.weight.detach()]
        assert sorted(ids) == expected


@pytest.mark.parametrize("family", ["gpt2", "bart", "llama"])
def test_a_byte_level_vocabulary_gives_a_word_with_its_space(family, tiny_folder_of):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder_of(family))
    for word in ("the", "not the", "said"):
        ids = word_ids(word, tokenizer)
        assert tokenizer.convert_ids_to_tokens(ids)[0].startswith("Ġ")
        assert tokenizer.decode(ids) == f" {word}"


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_other_vocabularies_give_a_word_as_it_stands(family, tiny_folder_of):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder_of(family))
    for word in ("the", "not the"):
        assert word_ids(word, tokenizer) == tokenizer(word, add_special_tokens=False)["input_ids"]


def test_a_vocabulary_that_puts_the_space_itself_gets_no_second_one():
    """Llama 2's kind: another space would be a token of its own."""
    pieces = ["<unk>", "▁", "t", "h", "e", "th", "the", "▁the"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    core = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    assert tokenizer.tokenize(" the") == ["▁", "▁the"]
    assert tokenizer.convert_ids_to_tokens(word_ids("the", tokenizer)) == ["▁the"]


def test_random_starts_fill_the_papers_interval():
    attachment, _ = start(init="random", length=130)
    weight = attachment.prompt.weight.detach()
    assert -0.5 <= weight.min() < -0.49
    assert 0.49 < weight.max() <= 0.5
    assert abs(weight.mean()) < 0.02
    assert weight.std().item() == pytest.approx(12**-0.5, abs=0.01)


def test_a_start_from_words_is_scaled_as_bart_scales_words():
    config = tiny_model("bart").config
    config.scale_embedding = True
    model = type(tiny_model("bart"))(config).eval()
    attachment, _ = start(model=model, words=("yes",), tokenizer=Words(), length=1)
    assert_close(attachment.prompt.weight[0], table(model)[30] * 32**0.5)


def test_electras_prompt_is_as_wide_as_its_embeddings():
    config = tiny_model("electra").config
    config.embedding_size = 16
    model = type(tiny_model("electra"))(config).eval()
    attachment, _ = start(model=model, length=3)
    assert attachment.count().stored == 3 * 16
    assert logits(model).isfinite().all()


def test_neighbours_are_the_nearest_words_by_cosine():
    attachment, model = start(words=("yes",), tokenizer=Words(), length=3)
    found = attachment.analysis()["neighbours"]
    rows = table(model)
    assert len(found) == 3
    for vector, near in zip(attachment.prompt.weight.detach(), found, strict=True):
        cosine = torch.nn.functional.cosine_similarity(vector[None], rows)
        order = cosine.argsort(descending=True)[:5].tolist()
        assert [n["token"] for n in near] == [f"<{i}>" for i in order]
        assert [n["similarity"] for n in near] == pytest.approx(cosine[order].tolist(), abs=1e-4)
    assert found[0][0] == {"token": "<30>", "similarity": 1.0}
    json.dumps(found)


def test_on_the_meta_device_there_are_counts():
    from transformers import AutoModelForSequenceClassification

    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(tiny_model().config)
    for init in ("labels", "vocabulary", "random"):
        attachment, _ = start(model=model, init=init, words=("yes",), length=4)
        assert attachment.count().trained == 4 * 32
        assert not attachment.prompt.weight.is_meta
        assert attachment.analysis() == {}


@pytest.mark.parametrize("family", ["bert", "t5", "gpt2"])
def test_the_export_is_the_prompt_and_the_head(family, tmp_path):
    model, attachment = attached("prompt_tuning", family)
    train(model, attachment, steps=3)
    attachment.export(tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    head = {n: p for n, p in model.named_parameters() if n.startswith(tuple(f"{h}." for h in head_modules(model)))}
    assert stored.keys() == {f"{attachment.path}.weight", *head}
    fresh, other = attached("prompt_tuning", family, seed=9)
    assert not torch.equal(logits(fresh), logits(model))
    fresh.load_state_dict(stored, strict=False)
    assert torch.equal(logits(fresh), logits(model))
    assert other.path == attachment.path


def test_no_decay_pulls_at_the_prompt():
    attachment, _ = start(length=2)
    (group,) = attachment.parameter_groups()
    assert (group.decays, group.parameters) == (False, [attachment.prompt.weight])
