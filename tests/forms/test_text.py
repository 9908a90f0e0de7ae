"""Text in, text out: the loss is transformers' own on the target alone; a row writes the same alone and in a batch."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import tiny_generator
from torch.nn import functional as F
from transformers import AutoTokenizer

from peftbench.doors import Context
from peftbench.errors import ConfigurationError
from peftbench.forms.decoding import Decoding, _processors, generate
from peftbench.forms.text import Text
from peftbench.forms.text_rows import TextRows, Wording
from peftbench.methods.registry import method_class
from peftbench.task_config import GenerationTask
from peftbench.tasks.base import Split, TaskSpec, TextFormat
from peftbench.training.batching import TokenRows
from peftbench.training.meter import Meter

SOURCES = [
    "name : The Wrestlers | food : English",
    "name : Cotto",
    "name : Blue Spice | area : riverside | near : The Bakers",
    "area : city centre | food : Thai",
]
TARGETS = ["The Wrestlers serves English food.", "Cotto.", "Near The Bakers, by the river, Blue Spice.", "Thai food."]
TASK = TaskSpec(
    "made_up", "made_up", ("source",), (), ("bleu",), {}, kind="generate",
    text=TextFormat(lambda s: s.texts[0], lambda s: (np.arange(len(s)), s.columns["targets"]), lambda t, s: t),
)  # fmt: skip
SETTINGS = {"prefix_tuning": {"length": 3}, "prompt_tuning": {"length": 3}, "lora": {"rank": 4}, "sora": {"rank": 4}}
FAMILIES = ("gpt2", "llama", "t5", "bart")


def split() -> Split:
    return Split("train", (SOURCES,), None, "", {"targets": TARGETS})


def form(family, tiny_folder_of, method=None) -> Text:
    model = tiny_generator(family)
    with torch.no_grad():  # As it is drawn, it writes the same for every source.
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 and family != "bart" else 1)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder_of(family))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    made = Text(TASK, GenerationTask("made_up", max_length=64, max_new_tokens=6), model, tokenizer)
    made.ready(Accelerator(cpu=True), 3, Meter(torch.device("cpu")))
    if method is not None:
        model.requires_grad_(False)
        attachment = method_class(method)(**SETTINGS[method]).attach(
            model, Context(torch.Generator().manual_seed(0), 10, "none", (), tokenizer)
        )
        with torch.no_grad():
            for group in attachment.parameter_groups():
                for parameter in group.parameters:
                    parameter.add_(0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return made


def padded(rows: list[np.ndarray], fill: int) -> torch.Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row.tolist(), *[fill] * (width - len(row))] for row in rows])


def test_smoothed_labels_are_torchs(tiny_folder_of):
    plain, smooth = (form("gpt2", tiny_folder_of) for _ in range(2))
    smooth = Text(TASK, GenerationTask("made_up", max_length=64, label_smoothing=0.1), smooth.model, smooth.tokenizer)
    batch = plain.tokenise(split()).batch(np.arange(4), torch.device("cpu"))
    log_p = F.log_softmax(plain._target_logits(batch), -1)
    chosen = log_p.gather(1, batch["target_ids"][:, None])[:, 0]
    torch.testing.assert_close(plain.loss(batch), -chosen.mean())
    torch.testing.assert_close(smooth.loss(batch), -(0.9 * chosen + 0.1 * log_p.mean(-1)).mean())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_transformers_own_with_every_other_label_ignored(family, tiny_folder_of):
    ours = form(family, tiny_folder_of)
    rows = ours.tokenise(split())
    which = np.arange(4)
    batch = rows.batch(which, torch.device("cpu"))
    targets = [rows.targets.row(i) for i in which]
    if rows.start is None:
        prompts = [rows.prompts.row(i) for i in which]
        labels = padded(
            [np.concatenate([np.full(len(p), -100), t]) for p, t in zip(prompts, targets, strict=True)], -100
        )
        ids = padded([np.concatenate(pair) for pair in zip(prompts, targets, strict=True)], 0)
        assert torch.equal(batch["input_ids"] * batch["attention_mask"], ids * batch["attention_mask"])
    else:
        labels = padded(targets, -100)
    theirs = ours.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
    torch.testing.assert_close(ours.loss(batch), theirs, rtol=1e-5, atol=1e-6)
    gradients = [
        torch.autograd.grad(loss, [p for p in ours.model.parameters() if p.requires_grad], allow_unused=True)
        for loss in (ours.loss(batch), ours.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss)
    ]  # fmt: skip
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_end_is_learned_even_where_it_is_the_padding(family, tiny_folder_of):
    ours = form(family, tiny_folder_of)
    rows = ours.tokenise(split())
    assert [rows.targets.row(i)[-1] for i in range(4)] == [ours.tokenizer.eos_token_id] * 4
    decoded = ours.tokenizer.batch_decode([rows.targets.row(i) for i in range(4)], skip_special_tokens=True)
    assert [text.strip() for text in decoded] == TARGETS


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_are_the_mean_log_likelihood_of_every_example(family, tiny_folder_of):
    ours = form(family, tiny_folder_of)
    rows = ours.tokenise(split())
    numbers = ours.numbers(rows)
    alone = [-float(ours.loss(rows.batch(np.array([i]), torch.device("cpu"))).detach()) for i in range(4)]
    np.testing.assert_allclose(numbers, alone, rtol=1e-5)
    found = ours.monitored(split(), rows, "log_likelihood")
    together = -float(ours.loss(rows.batch(np.arange(4), torch.device("cpu"))).detach())
    assert found["log_likelihood"] == pytest.approx(together, rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(-together), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_micro_batches_weigh_by_target_tokens(family, tiny_folder_of):
    ours = form(family, tiny_folder_of)
    rows = ours.tokenise(split())
    whole = ours.loss(rows.batch(np.arange(4), torch.device("cpu")))
    parts = [np.array([0, 2]), np.array([1, 3])]
    shares = [ours.loss(rows.batch(p, torch.device("cpu"))) * rows.weight(p) / rows.weight(np.arange(4)) for p in parts]
    torch.testing.assert_close(sum(shares), whole)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("method", [None, *SETTINGS])
@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_a_row_alone_writes_what_it_writes_in_a_batch(family, method, beams, tiny_folder_of):
    ours = form(family, tiny_folder_of, method)
    rows = ours.tokenise(split())
    settings = Decoding(6, beams)

    def written(prompts: TokenRows) -> list[str]:
        return generate(ours.model, prompts, settings, ours.tokenizer, ours.accelerator, 12, ours.meter)[0]

    together = written(rows.prompts)
    alone = [written(TokenRows.of([rows.prompts.row(i).tolist()], rows.prompts.pad))[0] for i in range(4)]
    assert together == alone
    assert len(set(together)) > 1


@pytest.mark.parametrize(("family", "ngram"), [("gpt2", 0), ("t5", 0), ("t5", 2)])
def test_generation_is_transformers_own_in_the_rows_order(family, ngram, tiny_folder_of):
    ours = form(family, tiny_folder_of)
    rows = ours.tokenise(split())
    settings = Decoding(5, 2, 0.8, ngram)
    written, _ = generate(ours.model, rows.prompts, settings, ours.tokenizer, ours.accelerator, 4, ours.meter)
    for i, text in enumerate(written):
        prompt = torch.from_numpy(rows.prompts.row(i))[None]
        tokens = ours.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, num_beams=2, length_penalty=0.8,
            no_repeat_ngram_size=ngram, do_sample=False, eos_token_id=3, pad_token_id=ours.tokenizer.pad_token_id,
        )  # fmt: skip
        begin = prompt.shape[1] if family == "gpt2" else 0
        assert text == ours.tokenizer.decode(tokens[0, begin:], skip_special_tokens=True)


def test_a_source_may_be_copied_and_a_text_may_not_repeat_itself():
    ids = torch.tensor([[5, 6, 7, 5, 6]])
    scores = torch.zeros(1, 9)
    whole = _processors(Decoding(8, no_repeat_ngram=3), 0)(ids, scores.clone())  # type: ignore[arg-type]
    written = _processors(Decoding(8, no_repeat_ngram=3), 3)(ids, scores.clone())  # type: ignore[arg-type]
    assert torch.isinf(whole).nonzero().tolist() == [[0, 7]]
    assert not torch.isinf(written).any()
    assert len(_processors(Decoding(8), 3)) == 0


def test_a_checkpoints_own_settings_neither_count_nor_change(tiny_folder_of):
    ours = form("gpt2", tiny_folder_of)
    prompts = ours.tokenise(split()).prompts

    def written():
        return generate(ours.model, prompts, Decoding(6, 2), ours.tokenizer, ours.accelerator, 8, ours.meter)

    plain = written()
    own = ours.model.generation_config
    own.repetition_penalty, own.suppress_tokens, own.early_stopping = 50.0, list(range(100, 590)), True  # type: ignore
    assert written() == plain
    assert ours.model.generation_config is own


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_sources_of_decoders_end_in_their_separator(family, tiny_folder_of):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder_of(family))
    tokenizer.pad_token = tokenizer.eos_token
    model = tiny_generator(family)
    (row,), _ = Wording(model, tokenizer).prompts(["name : Cotto"], 64)
    assert tokenizer.decode(row, skip_special_tokens=True) == "name : Cotto\n"
    tokenizer.bos_token = tokenizer.eos_token
    wording = Wording(model, tokenizer)
    (row,), _ = wording.prompts(["name : Cotto"], 64)
    assert row[-1] == tokenizer.eos_token_id
    (target,) = wording.targets(["Cotto."])
    assert tokenizer.decode(target[:-1]) == " Cotto."


def test_a_long_source_is_cut_and_its_separator_kept(tiny_folder_of):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder_of("gpt2"))
    tokenizer.pad_token = tokenizer.eos_token
    wording = Wording(tiny_generator("gpt2"), tokenizer)
    (row, short), cut = wording.prompts(["word " * 100, "word"], 10)
    (separator,), _ = wording.prompts([""], 10)
    assert cut == 1
    assert len(row) == 10 + len(separator)
    assert row[10:] == separator == short[-len(separator) :]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_target_that_is_cut_teaches_no_end_and_is_told(family, tiny_folder_of):
    model, tokenizer = tiny_generator(family), AutoTokenizer.from_pretrained(tiny_folder_of(family))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    made = Text(TASK, GenerationTask("made_up", max_length=8, max_target_length=6), model, tokenizer)
    rows = made.tokenise(split())
    whole = made.wording.targets(TARGETS)
    for i, ids in enumerate(whole):
        assert rows.targets.row(i).tolist() == ids[:6]
        assert (rows.targets.row(i)[-1] == tokenizer.eos_token_id) == (len(ids) <= 6)
    long = sum(len(ids) > 6 for ids in whole)
    assert 0 < long < (5 if family == "t5" else 4)
    assert f"targets of train cut to 6 tokens: {long} of 4" in made.told.values()
    assert any(line.startswith("sources of train cut to 8 tokens: ") for line in made.told.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_without_an_end_are_counted_and_so_are_tokens(family, tiny_folder_of):
    ours = form(family, tiny_folder_of)
    prompts = ours.tokenise(split()).prompts
    _, unfinished = generate(ours.model, prompts, Decoding(3), ours.tokenizer, ours.accelerator, 2, ours.meter)
    assert unfinished == 4
    assert ours.meter.generated_tokens == 12
    with torch.no_grad():  # Every logit the same: the end is as good as any, and the smallest id of the best is taken.
        ours.model.get_output_embeddings().weight.zero_()
        if ours.model.get_output_embeddings().bias is None:
            ours.model.get_output_embeddings().bias = torch.nn.Parameter(torch.eye(600)[ours.tokenizer.eos_token_id])
    _, unfinished = generate(ours.model, prompts, Decoding(3), ours.tokenizer, ours.accelerator, 2, ours.meter)
    assert unfinished == 0
    assert ours.meter.generated_tokens == 12 + 4


def test_an_encoder_decoder_without_a_start_is_refused(tiny_folder_of):
    model = tiny_generator("t5")
    del model.config.decoder_start_token_id
    with pytest.raises(ConfigurationError, match="decoder_start_token_id"):
        Wording(model, AutoTokenizer.from_pretrained(tiny_folder_of("t5")))


def test_batches_shift_the_decoder_by_its_start(tiny_folder_of):
    ours = form("t5", tiny_folder_of)
    rows = ours.tokenise(split())
    assert isinstance(rows, TextRows)
    batch = rows.batch(np.array([1, 0]), torch.device("cpu"))
    first = rows.targets.row(1)
    assert batch["decoder_input_ids"][0, : len(first)].tolist() == [0, *first[:-1].tolist()]
    assert F.one_hot(batch["target_ids"], 600).shape[0] == int(batch["positions"].sum())


def test_a_text_that_is_cut_off_is_unfinished_whatever_the_checkpoint_forces(tiny_folder_of):
    """BART's own settings write its end at the limit, as if the text were whole."""
    ours = form("bart", tiny_folder_of)
    ours.model.generation_config.forced_eos_token_id = ours.tokenizer.eos_token_id
    prompts = ours.tokenise(split()).prompts
    _, unfinished = generate(ours.model, prompts, Decoding(3), ours.tokenizer, ours.accelerator, 4, ours.meter)
    assert unfinished == 4
    assert ours.meter.generated_tokens == 12
